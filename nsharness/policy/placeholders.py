"""Placeholders in the environment that a profile gives to a workload: ``{{ placeholder anthropic.key }}``.

What a placeholder looks like, and how it becomes the secret again, is ``credentials.placeholder``; here is
only what people write.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from nsharness.credentials.secret import SecretRef

_REFERENCE = re.compile(r"\{\{([^{}]*)\}\}")
_WORD = "placeholder"


def references(text: str) -> tuple[SecretRef, ...]:
    """The secrets whose placeholders a value has, in the order of their first use. ``ValueError`` for
    doubled braces that are anything else."""
    found: list[SecretRef] = []

    def note(ref: SecretRef) -> str:
        found.append(ref)
        return ""

    fill(text, note)
    return tuple(dict.fromkeys(found))


def fill(text: str, placeholder: Callable[[SecretRef], str]) -> str:
    """The value with each ``{{ placeholder name.key }}`` replaced, in one pass. ``ValueError`` as above."""
    position, parts = 0, []
    for match in _REFERENCE.finditer(text):
        parts += [_literal(text[position : match.start()]), placeholder(_ref(match[1]))]
        position = match.end()
    return "".join([*parts, _literal(text[position:])])


def _ref(inside: str) -> SecretRef:
    word, _, name = inside.strip(" ").partition(" ")
    if word != _WORD:
        raise ValueError(
            "a template that is no {{ placeholder secret-name.key }}: the workload is never given a secret"
        )
    return SecretRef.parse(name.strip(" "))


def _literal(text: str) -> str:
    if "{{" in text or "}}" in text:
        raise ValueError("doubled braces that belong to no {{ placeholder secret-name.key }}")
    return text
