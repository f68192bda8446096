"""Which entries of a shared folder are hidden. Pure: globs and a listing → paths.

A glob without ``/`` is compared with names, at any depth; one with ``/`` with the whole path below the
shared folder. ``*`` and ``?`` stay within a name, ``**`` crosses them; upper and lower case differ.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable
from typing import Literal

from nsharness.frozen import frozen

type Found = Literal["directory", "file", "symlink", "special", "unreadable"]


@frozen
class Listed:
    """One entry below a shared folder, by its absolute path.

    ``inode`` is device and number of a file with several names; ``target`` where a symlink leads in the
    end, as an absolute path without links; ``unreadable`` is a directory that cannot be looked into.
    """

    path: str
    kind: Found
    target: str = ""
    inode: tuple[int, int] | None = None


def matches(pattern: str, relative: str) -> bool:
    """Whether a glob means the entry at this path, which is relative to the shared folder."""
    pattern = pattern.rstrip("/")
    subject = relative if "/" in pattern else posixpath.basename(relative)
    return re.fullmatch(_regex(pattern.lstrip("/")), subject, re.DOTALL) is not None


def _regex(pattern: str) -> str:
    parts = re.split(r"(\*\*/|\*\*|\*|\?)", pattern)
    meanings = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    return "".join(meanings.get(part, re.escape(part)) for part in parts)


def hidden(top: str, listing: Iterable[Listed], globs: Iterable[str]) -> dict[str, Found]:
    """The paths to cover, and what they are, outermost only.

    A symlink cannot be covered: what it leads to is, wherever in a shared folder that may be. A file is
    hidden under all its names. What cannot be looked into is hidden whole: its owner could
    open it from inside.
    """
    globs = tuple(globs)
    listing = tuple(listing)
    named = [each for each in listing if any(matches(glob, each.path[len(top) + 1 :]) for glob in globs)]
    targets = {each.target for each in named if each.kind == "symlink" and each.target}
    inodes = {each.inode for each in listing if each.inode and (each in named or each.path in targets)}
    kinds: dict[str, Found] = {each.path: each.kind for each in named if each.kind != "symlink"}
    for each in listing:
        if each.path in targets or each.inode in inodes or (each.kind == "unreadable" and globs):
            kinds[each.path] = each.kind
    for target in targets - kinds.keys():
        kinds[target] = "file"  # Elsewhere: the caller, who sees all folders, knows whether it is shared.
    return {path: kind for path, kind in kinds.items() if not any(p in kinds for p in _above(path))}


def _above(path: str) -> Iterable[str]:
    while (path := posixpath.dirname(path)) not in ("/", ""):
        yield path
