"""Read the two layers of an overlay. Everything in the upper one was made by the workload.

Paths are walked from a descriptor of the layer, no symbolic link is followed, and nothing but regular files
and directories is ever opened. What the workload made unreadable belongs to the owner, who opens it.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from typing import Final

from nsharness.linux.beneath import opened, set_mode
from nsharness.overlay.changes import Change, Node, changes, touched

MAX_ENTRIES: Final = 1_000_000
"""Entries of a layer; beyond that it is an attack on the reader, not work."""

_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY
_OPAQUE: Final = "user.overlay.opaque"
_WHITEOUT: Final = "user.overlay.whiteout"
# What the kernel never writes with userxattr: another path's content would be shown under this name.
_FOREIGN: Final = ("user.overlay.redirect", "user.overlay.metacopy")


class LayerError(Exception):
    """A layer that cannot be trusted; the text is for the user."""


@dataclass(frozen=True, slots=True)
class Upper:
    """A descriptor of the upper layer, and the modes that the workload gave to what was opened up."""

    descriptor: int
    modes: Mapping[str, int] = field(default_factory=dict)


@contextmanager
def unlocked(parent: int, name: str) -> Iterator[Upper]:
    """The upper layer, for the block readable to its owner whatever modes the workload left."""
    modes: dict[str, int] = {}
    with opened(parent, name, os.O_PATH | os.O_DIRECTORY) as top:
        try:
            _open_up(top, "", modes)  # Itself too: the workload's workspace is its top.
            for path in _walk(top, ""):
                _open_up(top, path, modes)
            yield Upper(top, modes)
        finally:
            for path, mode in reversed(modes.items()):
                with suppress(OSError), _place(top, path) as place:
                    set_mode(place, mode)


def _place(top: int, path: str) -> AbstractContextManager[int]:
    """The entry, without a permission on it; the top itself by the descriptor that is there."""
    return opened(top, path, os.O_PATH) if path else nullcontext(top)


def _open_up(top: int, path: str, modes: dict[str, int]) -> None:
    try:
        with _place(top, path) as place:
            mode = os.fstat(place).st_mode
            needed = 0o700 if stat.S_ISDIR(mode) else 0o400 if stat.S_ISREG(mode) else 0
            if mode & needed != needed:
                modes[path] = stat.S_IMODE(mode)
                set_mode(place, stat.S_IMODE(mode) | needed)
    except FileNotFoundError:
        return  # The run lives and has removed it.


def compare(upper: Upper, lower: int) -> tuple[Change, ...]:
    """What changed, from the upper layer and a descriptor of the lower. ``OSError``, ``LayerError``."""
    ours = _nodes(upper.descriptor, "", upper)
    theirs: dict[str, Node] = {}
    for path, deep in touched(ours).items():
        node = _node(lower, path, None)
        if node is not None and path not in theirs:
            theirs[path] = node
            if deep and node.kind == "directory":
                theirs |= _nodes(lower, path, None)
    for path, node in ours.items():
        old = theirs.get(path)
        if old is not None and old.kind == node.kind == "file" and old.size == node.size:
            ours[path] = replace(node, digest=_digest(upper.descriptor, path))
            theirs[path] = replace(old, digest=_digest(lower, path))
    return changes(ours, theirs)


def _nodes(top: int, start: str, upper: Upper | None) -> dict[str, Node]:
    found = {}
    for path in _walk(top, start):
        node = _node(top, path, upper)
        if node is not None:
            found[path] = node
    return found


def _walk(top: int, start: str) -> Iterator[str]:
    """Every path below ``start``; a directory before what is in it, and listed only after it was yielded."""
    waiting = [start]
    seen = 0
    while waiting:
        folder = waiting.pop()
        if folder != start:
            yield folder
        try:
            with opened(top, folder, _DIRECTORY) as descriptor, os.scandir(descriptor) as entries:
                found = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
        except FileNotFoundError:
            continue
        for name, is_directory in found:
            seen += 1
            if seen > MAX_ENTRIES:
                raise LayerError(f"more than {MAX_ENTRIES} entries")
            path = f"{folder}/{name}" if folder else name
            if is_directory:
                waiting.append(path)
            else:
                yield path


def _node(top: int, path: str, upper: Upper | None) -> Node | None:
    """One entry; ``upper`` for one of that layer, where overlayfs leaves its marks."""
    parent, _, name = path.rpartition("/")
    try:
        with opened(top, parent, os.O_PATH | os.O_DIRECTORY) as folder:
            status = os.lstat(name, dir_fd=folder)
            mode = status.st_mode
            if upper and stat.S_ISCHR(mode) and status.st_rdev == 0:
                return Node("whiteout")
            if stat.S_ISLNK(mode):
                return Node("symlink", 0o777, target=os.readlink(name, dir_fd=folder))
            if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                return Node("special", stat.S_IMODE(mode))
            marks = _marks(folder, name) if upper else {}
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        if error.errno == errno.ELOOP and upper is None:
            return None  # Below a symbolic link of the workspace nothing is meant.
        raise
    if foreign := [mark for mark in _FOREIGN if mark in marks]:
        raise LayerError(f"{path!a} carries {foreign[0]}, which nothing of ours writes")
    bits = upper.modes.get(path, stat.S_IMODE(mode)) if upper else stat.S_IMODE(mode)
    if stat.S_ISDIR(mode):
        # A set-group-id bit on directories is handed down by the parent's, not chosen.
        return Node("directory", bits & ~0o2000, opaque=marks.get(_OPAQUE) == b"y")
    if _WHITEOUT in marks and status.st_size == 0:
        return Node("whiteout")
    return Node("file", bits, status.st_size, changed_ns=status.st_mtime_ns)


def _marks(folder: int, name: str) -> dict[str, bytes]:
    """overlayfs's own attributes of a file or a directory (overlayfs.rst, "userxattr")."""
    found = {}
    for mark in (_OPAQUE, _WHITEOUT, *_FOREIGN):
        with suppress(OSError):  # ENODATA, for nearly all.
            found[mark] = os.getxattr(f"/proc/self/fd/{folder}/{name}", mark, follow_symlinks=False)
    return found


@contextmanager
def readable(top: int, path: str) -> Iterator[int]:
    """A regular file of a layer, open for reading. ``OSError`` when it is none (any more)."""
    with opened(top, path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY) as descriptor:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "it is no regular file")
        yield descriptor


def _digest(top: int, path: str) -> str:
    total = hashlib.sha256()
    with readable(top, path) as descriptor:
        while part := os.read(descriptor, 1 << 20):
            total.update(part)
    return total.hexdigest()
