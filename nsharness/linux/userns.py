"""User namespaces and their maps (user_namespaces(7))."""

from __future__ import annotations

import os


def enter_new(extra_flags: int = 0) -> None:
    """Move this process into a new user namespace (and whatever ``extra_flags`` name) with only itself in it.

    The uid and gid keep their numbers, everything else is unmapped, ``setgroups`` is off for good. The
    calling process must be single-threaded (EINVAL otherwise) and have its own ``/proc`` mounted. What a
    distribution forbids shows here or at one of the next steps: the ``OSError`` carries the file's name.
    """
    uid, gid = os.geteuid(), os.getegid()
    os.unshare(os.CLONE_NEWUSER | extra_flags)
    map_only(uid, gid)


def map_only(uid: int, gid: int) -> None:
    """Let one uid and one gid of the parent namespace exist, and nobody change supplementary groups.

    For a process that has just entered a new user namespace; the ``OSError`` names the file that refused.
    """
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
    """Without a codec that would have to be imported first: by now the interpreter may be out of reach."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(descriptor, text.encode())
        finally:
            os.close(descriptor)
    except OSError as error:
        raise OSError(error.errno, f"writing {text!r}: {error.strerror}", path) from error
