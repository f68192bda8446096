"""Two layers → what changed. Pure: listings in, changes out.

A listing maps paths relative to the workspace to nodes. That of the lower layer need hold only what the
upper one touches (``touched``): everything else is what it was.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

type NodeKind = Literal["file", "directory", "symlink", "special", "whiteout"]
type Action = Literal["add", "modify", "retype", "mode", "delete"]


@dataclass(frozen=True, slots=True)
class Node:
    """One entry of a layer.

    ``mode`` is the permission bits, ``digest`` that of a file's content where sizes do not tell. An
    ``opaque`` directory hides all of the lower layer below it, a whiteout hides one entry (overlayfs.rst).
    ``changed_ns`` is when its content last changed.
    """

    kind: NodeKind
    mode: int = 0o644
    size: int = 0
    target: str = ""
    digest: str = ""
    opaque: bool = False
    changed_ns: int = 0


@dataclass(frozen=True, slots=True)
class Change:
    """What happened to one path; ``before`` and ``after`` are None where there is nothing."""

    path: str
    action: Action
    before: Node | None
    after: Node | None


def merged(upper: Mapping[str, Node], lower: Mapping[str, Node]) -> dict[str, Node]:
    """What the workload saw, as far as the listings go."""
    seen = {path: node for path, node in upper.items() if node.kind != "whiteout"}
    seen |= {path: node for path, node in lower.items() if path not in upper and not _hidden(path, upper)}
    return seen


def _hidden(path: str, upper: Mapping[str, Node]) -> bool:
    for parent in above(path):
        node = upper.get(parent)
        if node is not None and (node.kind != "directory" or node.opaque):
            return True
    return False


def above(path: str) -> Iterable[str]:
    """The directories that a relative path lies in, innermost first, without the top itself."""
    while path := posixpath.dirname(path):
        yield path


def changes(upper: Mapping[str, Node], lower: Mapping[str, Node]) -> tuple[Change, ...]:
    """Every path that is not what it was, in order of the paths."""
    after = merged(upper, lower)
    found = []
    for path in sorted({*after, *lower}):
        old, new = lower.get(path), after.get(path)
        action = _action(old, new)
        if action is not None:
            found.append(Change(path, action, old, new))
    return tuple(found)


def _action(old: Node | None, new: Node | None) -> Action | None:
    if new is None:
        return "delete" if old is not None else None
    if old is None:
        return "add"
    if old.kind != new.kind:
        return "retype"
    if old.kind == "file" and (old.size, old.digest) != (new.size, new.digest):
        return "modify"
    if old.kind == "symlink":
        return "modify" if old.target != new.target else None  # Its mode means nothing.
    return "mode" if old.mode != new.mode else None


def touched(upper: Mapping[str, Node]) -> dict[str, bool]:
    """What must be known of the lower layer: each path, and whether with everything below it."""
    return {
        path: node.kind != "directory" or node.opaque or any(_replaces(upper, p) for p in above(path))
        for path, node in upper.items()
    }


def _replaces(upper: Mapping[str, Node], path: str) -> bool:
    node = upper.get(path)
    return node is not None and node.opaque


def select(found: Iterable[Change], paths: Iterable[str]) -> tuple[tuple[Change, ...], tuple[str, ...]]:
    """The changes at or below ``paths``, with the new directories that they stand in, and the paths at which
    nothing changed."""
    found = tuple(found)
    wanted: set[str] = set()
    missed = []
    for path in paths:
        here = {c.path for c in found if path in ("", c.path) or c.path.startswith(path + "/")}
        if not here:
            missed.append(path)
        wanted |= here
    needed = {parent for path in wanted for parent in above(path)}
    made = {c.path for c in found if c.path in needed and c.action in ("add", "retype")}
    # What stood where a directory is to be goes with it, what lay in a directory that is to be a file too.
    replaced = [c.path + "/" for c in found if c.path in wanted and c.action == "retype"]
    below = {c.path for c in found if c.action == "delete" and c.path.startswith(tuple(replaced))}
    chosen = wanted | made | below
    return tuple(c for c in found if c.path in chosen), tuple(missed)
