"""Placeholders in the requests of one sandbox: where they may become the secret, and where they are stray."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from nsharness.credentials.placeholder import detector, substitute
from nsharness.credentials.secret import Secret, SecretRef
from nsharness.policy.headers import Field
from nsharness.policy.model import Place, Rule

# What makes the request is not a place for secrets, whatever a rule says.
_FIXED: Final = frozenset(
    {b"host", b"content-length", b"transfer-encoding", b"expect", b"connection", b"upgrade"}
)
_NEUTRAL: Final = Secret("00000000")


class Placeholders:
    """The placeholders that the workload was given, by their text, each with the secret it stands for."""

    def __init__(self, texts: Mapping[str, str] | None = None) -> None:
        """``texts`` maps a placeholder's text to ``name.key``; ``ValueError`` if it is anything else."""
        self._refs = {text: str(SecretRef.parse(ref)) for text, ref in (texts or {}).items()}
        self.detector = detector(self._refs) if self._refs else None
        """Recognises any of them in any form; None if there are none."""

    def usable(self, rule: Rule) -> dict[str, str]:
        """Those whose secret the rule entitles to."""
        return {text: ref for text, ref in self._refs.items() if ref in rule.secrets}

    def used(self, fields: Sequence[Field], rule: Rule) -> tuple[list[Field], tuple[str, ...]]:
        """The fields with something neutral in place of each placeholder that will become a secret, to look
        for others in the rest; and the names of the fields that have one."""
        return _replaced(fields, rule, dict.fromkeys(self.usable(rule), _NEUTRAL))

    def filled(self, fields: Sequence[Field], rule: Rule, secrets: Mapping[str, Secret]) -> list[Field]:
        """The fields with the ``secrets`` (by ``name.key``) in place of their placeholders: to be sent,
        and to be kept nowhere. A secret that is missing is a ``KeyError``."""
        values = {text: secrets[ref] for text, ref in self.usable(rule).items()}
        return _replaced(fields, rule, values)[0]

    def finds(self, data: bytes) -> bool:
        """Whether there is any placeholder in it, in any form."""
        return self.detector is not None and self.detector.finds(data)


def _replaced(
    fields: Sequence[Field], rule: Rule, values: Mapping[str, Secret]
) -> tuple[list[Field], tuple[str, ...]]:
    made: list[Field] = []
    names: dict[str, None] = {}
    for name, value in fields:
        if name.lower() not in _FIXED and _place(value) in rule.placeholders:
            value, used = substitute(value, values)
            if used:
                names.setdefault(name.decode("ascii"))
        made.append((name, value))
    return made, tuple(names)


def _place(value: bytes) -> Place:
    return "basic" if value[:6].lower() == b"basic " else "header"
