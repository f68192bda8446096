"""The mount calls that a plan needs, on descriptors wherever the kernel offers it.

A bind is cloned detached, gets its attributes, and only then appears in the tree (open_tree(2),
mount_setattr(2), move_mount(2); Linux 5.12), so that no moment exists at which a read-only directory is
writable, and the source cannot be exchanged between check and use.
"""

from __future__ import annotations

import os
import struct
from typing import Final

from nsharness.linux import libc

MS_RDONLY: Final = 1
MS_NOSUID: Final = 2
MS_NODEV: Final = 4
MS_NOEXEC: Final = 8
MS_REMOUNT: Final = 32
MS_BIND: Final = 4096
MS_REC: Final = 16384
MS_PRIVATE: Final = 1 << 18
MS_SLAVE: Final = 1 << 19
MNT_DETACH: Final = 2

_AT_EMPTY_PATH: Final = 0x1000
_AT_FDCWD: Final = -100
_AT_SYMLINK_NOFOLLOW: Final = 0x100
_AT_NO_AUTOMOUNT: Final = 0x800
_AT_RECURSIVE: Final = 0x8000
_CLONE: Final = 0o2000001 | _AT_RECURSIVE  # OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC
_MOVE_MOUNT_F_EMPTY_PATH: Final = 4
_MOVE_MOUNT_T_EMPTY_PATH: Final = 0x40
_ATTR_RDONLY: Final = 1
_ATTR_NOSUID: Final = 2
_ATTR_NODEV: Final = 4
_ATTR_NOEXEC: Final = 8


def clone_tree(path_descriptor: int) -> int:
    """A detached copy of the mounts below an O_PATH descriptor; the caller closes the result."""
    return libc.syscall(libc.SYS_OPEN_TREE, path_descriptor, b"", _CLONE | _AT_EMPTY_PATH)


def clone_tree_at(path: str) -> int:
    """The same for a path, of which the last part is not followed and mounts nothing."""
    flags = _CLONE | _AT_SYMLINK_NOFOLLOW | _AT_NO_AUTOMOUNT
    return libc.syscall(libc.SYS_OPEN_TREE, _AT_FDCWD, os.fsencode(path), flags)


def set_attributes(
    tree: int, *, read_only: bool, nosuid: bool = True, nodev: bool = True, noexec: bool = False
) -> None:
    """Set mount attributes on a whole detached tree; nothing that is set already is ever cleared."""
    attributes = (
        (_ATTR_RDONLY if read_only else 0)
        | (_ATTR_NOSUID if nosuid else 0)
        | (_ATTR_NODEV if nodev else 0)
        | (_ATTR_NOEXEC if noexec else 0)
    )
    # struct mount_attr: attr_set, attr_clr, propagation, userns_fd.
    record = struct.pack("=QQQQ", attributes, 0, MS_PRIVATE, 0)
    flags = _AT_EMPTY_PATH | _AT_RECURSIVE
    libc.syscall(libc.SYS_MOUNT_SETATTR, tree, b"", flags, record, len(record))


def attach_at(tree: int, place: int) -> None:
    """Let a detached tree appear where the O_PATH descriptor ``place`` is."""
    flags = _MOVE_MOUNT_F_EMPTY_PATH | _MOVE_MOUNT_T_EMPTY_PATH
    libc.syscall(libc.SYS_MOVE_MOUNT, tree, b"", place, b"", flags)


def pivot_root(new_root: str) -> None:
    """Make ``new_root`` the root and let go of the old one altogether (pivot_root(2), stacked form)."""
    os.chdir(new_root)
    libc.syscall(libc.syscall_number("pivot_root"), b".", b".")
    libc.umount2(".", MNT_DETACH)
    os.chdir("/")


def remount_read_only(target: str) -> None:
    """Make one mount read-only, the ones below it untouched."""
    libc.mount(None, target, None, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV)
