"""Header values with references to secrets: ``Bearer {{ wiki.token }}``.

A reference is ``{{ secret-name.key }}`` and nothing else; there are no expressions and no escapes.
Every doubled brace that is not part of one is an error, so that a misspelled reference can never
be sent as it stands.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from nsharness.credentials.secret import Secret, SecretRef

_REFERENCE = re.compile(r"\{\{([^{}]*)\}\}")


class TemplateError(ValueError):
    """A template that is none. The text names the place, and never quotes what is around it."""


@dataclass(frozen=True, slots=True)
class Template:
    """A parsed template: literal text and references in their order."""

    parts: tuple[str | SecretRef, ...]

    @classmethod
    def parse(cls, text: str) -> Template:
        """Read a template; text without references is one, too. ``TemplateError`` on malformed braces."""
        parts: list[str | SecretRef] = []
        position = 0
        for match in _REFERENCE.finditer(text):
            _literal(parts, text, position, match.start())
            try:
                parts.append(SecretRef.parse(match[1].strip(" ")))
            except ValueError as error:
                raise TemplateError(f"reference at column {match.start() + 1}: {error}") from None
            position = match.end()
        _literal(parts, text, position, len(text))
        return cls(tuple(parts))

    @property
    def refs(self) -> tuple[SecretRef, ...]:
        """The references, each once, in the order of their first use."""
        return tuple(dict.fromkeys(part for part in self.parts if isinstance(part, SecretRef)))

    def render(self, lookup: Callable[[SecretRef], Secret]) -> Secret:
        """The text with every reference replaced by its value. One pass: a value is never a template.

        Whatever ``lookup`` raises passes through; there is no partial result.
        """
        return Secret(
            "".join(part if isinstance(part, str) else lookup(part).reveal() for part in self.parts)
        )

    def __str__(self) -> str:
        return "".join(part if isinstance(part, str) else "{{ " + str(part) + " }}" for part in self.parts)


def _literal(parts: list[str | SecretRef], text: str, start: int, end: int) -> None:
    """Take over literal text after a look for braces that a person could have meant as a reference."""
    literal = text[start:end]
    # A single brace is an ordinary character, but not one that touches a reference.
    for braces in ("{{", "}}"):
        if braces in literal:
            column = start + literal.index(braces) + 1
            raise TemplateError(f"{braces} at column {column} belongs to no {{{{ secret-name.key }}}}")
    if (start > 0 and literal.startswith("}")) or (end < len(text) and literal.endswith("{")):
        raise TemplateError(f"three braces in a row near column {start + 1 if start else end}")
    if literal:
        parts.append(literal)
