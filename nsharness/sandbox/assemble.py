"""Carry out a plan: the new root, step by step, in the mount namespace of the calling process.

Runs in the process that becomes PID 1, before it gives up its privileges. Sources on the host are opened
before the steps are taken, with the workload's own rights; targets are resolved without following
any symbolic link (openat2(2)), so that nothing inside a shared directory can redirect a mount.
"""

from __future__ import annotations

import errno
import os
import stat
import struct
from collections.abc import Sequence
from contextlib import nullcontext
from itertools import groupby
from typing import Final

from nsharness.linux import libc, mounts
from nsharness.linux.fds import close_all, write_all
from nsharness.linux.process import file_access_as
from nsharness.plan.handover import data
from nsharness.plan.steps import (
    Bind,
    Cover,
    Device,
    Devpts,
    Directory,
    File,
    Links,
    Mask,
    Overlay,
    Proc,
    ReadOnly,
    Step,
    Stored,
    Symlink,
    Tmpfs,
)
from nsharness.sandbox import overlay

_BASE: Final = "/sys/dev" if os.path.isdir("/sys/dev") else "/sys"  # noqa: PTH112 - as below
"""A directory that every host has and in which nothing is that could be shared: until the old root is left
behind it is covered."""
_ROOT_SIZE: Final = 16 << 20
_SYS_OPENAT2: Final = 437
_RESOLVE_NO_SYMLINKS: Final = 0x04
_RESOLVE_BENEATH: Final = 0x08
_HOW: Final = struct.pack(
    "=QQQ", os.O_PATH | os.O_CLOEXEC | os.O_NOFOLLOW, 0, _RESOLVE_BENEATH | _RESOLVE_NO_SYMLINKS
)
_NOSUID_NODEV: Final = mounts.MS_NOSUID | mounts.MS_NODEV


class StepFailedError(OSError):
    """A step that the kernel refused; the text names the step."""


class Root:
    """A new root, while it is made for a workload that will have this uid and gid.

    What does not depend on the plan is done at once, and steps can be taken in parts, so that much of it is
    there before the plan is.
    """

    def __init__(self) -> None:
        options = f"mode=0755,size={_ROOT_SIZE}"
        libc.mount("nsharness", _BASE, "tmpfs", _NOSUID_NODEV, options)
        self._base = os.open(_BASE, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self._procfs = -1
        self._sources: dict[str, tuple[int, int]] = {}
        self._has_own = False

    def take(self, steps: Sequence[Step], uid: int, gid: int, contents: int = -1) -> None:
        """Take the next steps; ``contents`` is the file that a plan came in, for what is stored there.
        ``StepFailedError`` names the one that the kernel refused."""
        trees = self._open_sources(steps, uid, gid)
        try:
            for as_workload, some in groupby(enumerate(steps), lambda each: self._as_workload(each[1])):
                with file_access_as(uid, gid) if as_workload else nullcontext():
                    for index, step in some:
                        try:
                            self._take(step, uid, gid, trees.get(index, -1), contents)
                        except OSError as error:
                            raise _failed(step, error) from error
        finally:
            close_all(trees.values())

    def _take(self, step: Step, uid: int, gid: int, tree: int, contents: int) -> None:
        match step:
            case Proc():
                self._procfs = _proc(self._base, step)
            case Stored():
                _stored(step, contents)
            case Tmpfs(path, size, mode, noexec):
                self._has_own = True
                flags = _NOSUID_NODEV | (mounts.MS_NOEXEC if noexec else 0)
                options = f"mode={mode:o},size={size},uid={uid},gid={gid}"
                libc.mount("tmpfs", _place(self._base, path), "tmpfs", flags, options)
            case _:
                _carry_out(step, self._base, tree)

    def _as_workload(self, step: Step) -> bool:
        """Whether a step is taken with the workload's rights to files: what it makes is the workload's, or
        its place may be in the workload's home, where root without capabilities is nobody. As long as nothing
        of the workload's has been mounted, a bind's place is in our own root."""
        if isinstance(step, Bind):
            return self._has_own
        return isinstance(step, Overlay | Cover) or (isinstance(step, Directory | File) and step.owned)

    def _open_sources(self, steps: Sequence[Step], uid: int, gid: int) -> dict[int, int]:
        """A detached clone of every mount source, by the step's number among these."""
        trees: dict[int, int] = {}
        try:
            with file_access_as(uid, gid):
                for index, step in enumerate(steps):
                    if isinstance(step, Bind | Device):
                        trees[index] = _source(step)
                        status = os.fstat(trees[index])
                        self._sources[_origin(step)] = status.st_dev, status.st_ino
            for index, step in enumerate(steps):
                if isinstance(step, Overlay):
                    try:
                        trees[index] = overlay.mounted(step, uid, gid)
                    except OSError as error:
                        raise _failed(step, error) from error
        except BaseException:
            close_all(trees.values())
            raise
        return trees

    @property
    def path(self) -> str:
        """Where it is until it is entered."""
        return _BASE

    def is_current(self) -> bool:
        """Whether what was mounted is still what has that name on the host."""
        try:
            found = {path: os.lstat(path) for path in self._sources}
        except OSError:
            return False
        return all((found[path].st_dev, found[path].st_ino) == was for path, was in self._sources.items())

    def enter(self) -> int:
        """Make it the root of this process. Returns a descriptor of an unprotected procfs, close-on-exec.

        That is how the caller still reaches ``/proc/sys/user`` of the user namespace that it enters next; it
        must be closed before any workload starts.
        """
        os.close(self._base)
        # Not before: as long as we wait, what the host unmounts must not be kept here.
        libc.mount(None, "/", None, mounts.MS_REC | mounts.MS_PRIVATE)
        mounts.pivot_root(_BASE)
        return self._procfs


def _failed(step: Step, error: OSError) -> StepFailedError:
    return StepFailedError(error.errno, f"{step.describe()}: {error.strerror}")


def _origin(step: Bind | Device) -> str:
    return step.path if isinstance(step, Device) else step.source


def _source(step: Bind | Device) -> int:
    try:
        return mounts.clone_tree_at(_origin(step))
    except OSError as error:
        raise _failed(step, error) from error


def _carry_out(step: Step, base: int, tree: int) -> None:
    match step:
        case Directory() | Symlink() | Links() | File():
            _make(step)
        case Bind() | Overlay():
            read_only = isinstance(step, Bind) and not step.writable
            mounts.set_attributes(tree, read_only=read_only, noexec=isinstance(step, Bind) and step.noexec)
            _attach(tree, base, step.path)
        case Cover(path, by):
            _cover(base, path, by)
        case Device(path):
            mounts.set_attributes(tree, read_only=False, nodev=False, noexec=True)
            _file(path, b"", 0o666)
            _attach(tree, base, path)
        case Devpts(path):
            flags = mounts.MS_NOSUID | mounts.MS_NOEXEC
            libc.mount("devpts", _place(base, path), "devpts", flags, "newinstance,ptmxmode=0666,mode=0620")
        case Mask(path):
            _mask(path)
        case ReadOnly(path):
            _read_only(base, path)
        case Tmpfs() | Proc() | Stored():
            raise AssertionError("handled by the caller")


def _stored(step: Stored, contents: int) -> None:
    """The kernel copies: none of it is ever in our own memory."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(_BASE + step.path, flags, step.mode)
    try:
        at, end = step.at, step.at + step.size
        while at < end:
            if not (copied := os.sendfile(descriptor, contents, at, end - at)):
                raise OSError(errno.ENODATA, os.strerror(errno.ENODATA))
            at += copied
        os.fchmod(descriptor, step.mode)
    finally:
        os.close(descriptor)


def _make(step: Directory | Symlink | Links | File) -> None:
    match step:
        case Directory(path):
            try:
                os.mkdir(_BASE + path)  # noqa: PTH102 - in the way of every start
            except FileExistsError:
                # A directory that a bind brought along is as good as one of ours.
                if not os.path.isdir(_BASE + path):  # noqa: PTH112
                    raise
        case Symlink(path, target):
            os.symlink(target, _BASE + path)  # noqa: PTH211 - as above
        case Links(path, into, names):
            _links(path, into, names)
        case File(path, _, mode):
            _file(path, data(step), mode)


def _links(path: str, into: str, names: tuple[str, ...]) -> None:
    folder = os.open(_BASE + path, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        for name in names:
            os.symlink(f"{into}/{name}", name, dir_fd=folder)
    finally:
        os.close(folder)


def _file(path: str, content: bytes, mode: int) -> None:
    target = _BASE + path
    if not content and os.path.exists(target):  # noqa: PTH110 - as above
        return
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(target, flags, mode)
    try:
        write_all(descriptor, content)
        os.fchmod(descriptor, mode)
    finally:
        os.close(descriptor)


def _cover(base: int, path: str, by: str) -> None:
    tree = mounts.clone_tree_at(_BASE + by)
    try:
        mounts.set_attributes(tree, read_only=True, noexec=True)
        _attach(tree, base, path)
    finally:
        os.close(tree)


def _proc(base: int, step: Proc) -> int:
    """Mount a procfs and keep an unprotected view of it that is attached nowhere."""
    flags = _NOSUID_NODEV | mounts.MS_NOEXEC
    libc.mount("proc", _place(base, step.path), "proc", flags)
    return mounts.clone_tree_at(_BASE + step.path)


def _mask(path: str) -> None:
    target = _BASE + path
    try:
        kind = os.stat(target).st_mode  # noqa: PTH116 - as above
    except FileNotFoundError:
        return
    if stat.S_ISDIR(kind):
        libc.mount("tmpfs", target, "tmpfs", _NOSUID_NODEV | mounts.MS_NOEXEC | mounts.MS_RDONLY, "size=0")
    else:
        libc.mount("/dev/null", target, None, mounts.MS_BIND)


def _read_only(base: int, path: str) -> None:
    if path == "/":
        mounts.remount_read_only(_BASE)
        return
    try:
        tree = mounts.clone_tree_at(_BASE + path)
    except FileNotFoundError:
        return
    try:
        mounts.set_attributes(tree, read_only=True, noexec=True)
        _attach(tree, base, path)
    finally:
        os.close(tree)


def _attach(tree: int, base: int, path: str) -> None:
    place = _open_beneath(base, path)
    try:
        mounts.attach_at(tree, place)
    finally:
        os.close(place)


def _place(base: int, path: str) -> str:
    """A path for mount(2) that names exactly the directory found without following symlinks."""
    os.close(_open_beneath(base, path))
    return _BASE + path


def _open_beneath(base: int, path: str) -> int:
    return libc.syscall(_SYS_OPENAT2, base, os.fsencode(path.lstrip("/")), _HOW, len(_HOW))
