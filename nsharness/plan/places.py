"""Paths of a plan, as text: what is below what, and which directories must be made first."""

from __future__ import annotations

import posixpath


def within(path: str, *tops: str) -> bool:
    """Whether ``path`` is one of ``tops`` or below one."""
    return any(path == top or path.startswith(top + "/") for top in tops)


def parents(path: str, made: set[str]) -> list[str]:
    """The directories above ``path`` that are not there yet, outermost first; they count as made then."""
    missing = []
    parent = posixpath.dirname(path)
    while parent not in made and parent != "/":
        missing.append(parent)
        parent = posixpath.dirname(parent)
    made.update(missing)
    return missing[::-1]
