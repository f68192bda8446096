"""Changes as a unified diff, for people: text files up to a bound, control characters shown."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator
from typing import Final

from nsharness.overlay.changes import Change, Node
from nsharness.overlay.tree import readable

MAX_BYTES: Final = 1 << 20
"""A file beyond this size is named, not shown."""


def patch(change: Change, upper: int, lower: int) -> Iterator[str]:
    """The lines of one change, without line ends."""
    path = shown(change.path)
    yield f"diff {change.action} {path}"
    if change.before and change.after and change.before.mode != change.after.mode:
        yield f"old mode {change.before.mode:o}"
        yield f"new mode {change.after.mode:o}"
    old = _content(change.before, change.path, lower)
    new = _content(change.after, change.path, upper)
    if old is None or new is None:
        yield f"Binary or large file {path} differs"
    elif old != new:
        names = (
            ("/dev/null" if change.before is None else f"a/{path}"),
            ("/dev/null" if change.after is None else f"b/{path}"),
        )
        yield from (shown(line.rstrip("\n")) for line in difflib.unified_diff(old, new, *names, lineterm=""))


def shown(text: str) -> str:
    """Text that does nothing to a terminal: what is not printable is escaped."""
    return "".join(c if c.isprintable() or c == "\t" else ascii(c)[1:-1] for c in text)


def _content(node: Node | None, path: str, top: int) -> list[str] | None:
    """Lines of a file, of a link's target; empty for what has none, None for what is not shown."""
    if node is None or node.kind in ("directory", "special", "whiteout"):
        return []
    if node.kind == "symlink":
        return [f"-> {node.target}"]
    if node.size > MAX_BYTES:
        return None
    with readable(top, path) as descriptor:
        data = os.read(descriptor, MAX_BYTES + 1)
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return None
    return None if "\0" in text or len(data) > MAX_BYTES else text.splitlines(keepends=True)
