"""User namespaces and their maps (user_namespaces(7))."""

from __future__ import annotations

import os
from pathlib import Path


def enter_new(extra_flags: int = 0) -> None:
    """Move this process into a new user namespace (and whatever ``extra_flags`` name) with only itself in it.

    The uid and gid keep their numbers, everything else is unmapped, ``setgroups`` is off for good. The
    calling process must be single-threaded (EINVAL otherwise) and have its own ``/proc`` mounted. What a
    distribution forbids shows here or at one of the next steps: the ``OSError`` carries the file's name.
    """
    uid, gid = os.geteuid(), os.getegid()
    os.unshare(os.CLONE_NEWUSER | extra_flags)
    _write("/proc/self/setgroups", "deny")
    _write("/proc/self/uid_map", f"{uid} {uid} 1")
    _write("/proc/self/gid_map", f"{gid} {gid} 1")


def forbid_nested(procfs: int) -> None:
    """No further user namespace below this one (``user.max_user_namespaces`` in namespaces(7)).

    ``procfs`` is a directory descriptor of a procfs that is not read-only; the file shows the value of the
    namespace of whoever opens it.
    """
    descriptor = os.open("sys/user/max_user_namespaces", os.O_WRONLY | os.O_CLOEXEC, dir_fd=procfs)
    try:
        os.write(descriptor, b"0")
    finally:
        os.close(descriptor)


def _write(path: str, text: str) -> None:
    try:
        Path(path).write_text(text, encoding="ascii")
    except OSError as error:
        raise OSError(error.errno, f"writing {text!r}: {error.strerror}", path) from error
