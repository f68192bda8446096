"""Carry out a plan: the new root, step by step, in the mount namespace of the calling process.

Runs in the process that becomes PID 1, before it gives up its privileges. Sources on the host are opened
first, with the workload's own rights and before anything is covered; targets are resolved without following
any symbolic link (openat2(2)), so that nothing inside a shared directory can redirect a mount.
"""

from __future__ import annotations

import errno
import os
import stat
import struct
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
    Plan,
    Proc,
    ReadOnly,
    Step,
    Stored,
    Symlink,
    Tmpfs,
)
from nsharness.sandbox import overlay

_BASE: Final = "/tmp"  # Any directory that every host has; it is covered, and left behind with the old root.
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


def assemble(plan: Plan, contents: int) -> int:
    """Make ``/`` what the plan says; ``contents`` is the file that it came in. Returns a descriptor of an
    unprotected procfs, close-on-exec.

    That is how the caller still reaches ``/proc/sys/user`` of the user namespace that it enters
    next; it must be closed before any workload starts.
    """
    trees = _open_sources(plan)
    try:
        libc.mount(None, "/", None, mounts.MS_REC | mounts.MS_PRIVATE)
        options = f"mode=0755,size={_ROOT_SIZE}"
        libc.mount("nsharness", _BASE, "tmpfs", _NOSUID_NODEV, options)
        base = os.open(_BASE, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        procfs = -1
        first_own = next((at for at, step in enumerate(plan.steps) if isinstance(step, Tmpfs)), 0)
        for as_workload, steps in groupby(
            enumerate(plan.steps), lambda each: _as_workload(each[1], own_root=each[0] < first_own)
        ):
            with file_access_as(plan.uid, plan.gid) if as_workload else nullcontext():
                for index, step in steps:
                    try:
                        if isinstance(step, Proc):
                            procfs = _proc(base, step)
                        elif isinstance(step, Stored):
                            _stored(step, contents)
                        else:
                            _carry_out(step, base, plan, trees.get(index, -1))
                    except OSError as error:
                        raise StepFailedError(error.errno, f"{step.describe()}: {error.strerror}") from error
        os.close(base)
        mounts.pivot_root(_BASE)
        return procfs
    finally:
        close_all(trees.values())


def _open_sources(plan: Plan) -> dict[int, int]:
    """A detached clone of every mount source, by the step's number in the plan."""
    trees: dict[int, int] = {}
    try:
        with file_access_as(plan.uid, plan.gid):
            for index, step in enumerate(plan.steps):
                if isinstance(step, Bind | Device):
                    trees[index] = _source(step)
        for index, step in enumerate(plan.steps):
            if isinstance(step, Overlay):
                try:
                    trees[index] = overlay.mounted(step, plan)
                except OSError as error:
                    raise StepFailedError(error.errno, f"{step.describe()}: {error.strerror}") from error
    except BaseException:
        close_all(trees.values())
        raise
    return trees


def _source(step: Bind | Device) -> int:
    try:
        return mounts.clone_tree_at(step.path if isinstance(step, Device) else step.source)
    except OSError as error:
        raise StepFailedError(error.errno, f"{step.describe()}: {error.strerror}") from error


def _as_workload(step: Step, *, own_root: bool) -> bool:
    """Whether a step is taken with the workload's rights to files: what it makes is the workload's, or its
    place may be in the workload's home, where root without capabilities is nobody.

    ``own_root`` as long as nothing of the workload's has been mounted: a bind is in our own root then.
    """
    if isinstance(step, Bind):
        return not own_root
    return isinstance(step, Overlay | Cover) or (isinstance(step, Directory | File) and step.owned)


def _carry_out(step: Step, base: int, plan: Plan, tree: int) -> None:
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
        case Tmpfs(path, size, mode, noexec):
            flags = _NOSUID_NODEV | (mounts.MS_NOEXEC if noexec else 0)
            options = f"mode={mode:o},size={size},uid={plan.uid},gid={plan.gid}"
            libc.mount("tmpfs", _place(base, path), "tmpfs", flags, options)
        case Devpts(path):
            flags = mounts.MS_NOSUID | mounts.MS_NOEXEC
            libc.mount("devpts", _place(base, path), "devpts", flags, "newinstance,ptmxmode=0666,mode=0620")
        case Mask(path):
            _mask(path)
        case ReadOnly(path):
            _read_only(base, path)
        case Proc() | Stored():
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
