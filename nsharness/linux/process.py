"""Who a process is and what it may do: credentials, capabilities, dumpability."""

from __future__ import annotations

import ctypes
import errno
import os
import resource
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import prctl

from nsharness.linux import libc

# capability.h; python-prctl's own list ends where the headers it was compiled with ended.
CAP_SETGID = 6
CAP_SETUID = 7
CAP_NET_ADMIN = 12
CAP_SYS_ADMIN = 21

_CAPABILITIES = 64
"""More than the kernel's sets have room for there cannot be."""
_PR_CAPBSET_READ = 23
_PR_CAPBSET_DROP = 24
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_CLEAR_ALL = 4
_LINUX_CAPABILITY_VERSION_3 = 0x20080522


def make_undumpable() -> None:
    """No ptrace, no core dump, ``/proc/PID`` owned by root (PR_SET_DUMPABLE in prctl(2), RLIMIT_CORE).

    ``core_pattern`` may name a pipe, for which the size limit does not count: both settings are needed.
    """
    prctl.set_dumpable(0)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def make_dumpable() -> None:
    """Undo what a change of uid does to the dumpable flag, so that ``/proc/self`` is writable by us again."""
    prctl.set_dumpable(1)


def set_no_new_privs() -> None:
    """No exec gains privilege any more (PR_SET_NO_NEW_PRIVS in prctl(2)); cannot be undone."""
    prctl.set_no_new_privs(1)


def become_subreaper() -> None:
    """Orphaned descendants become children of this process (PR_SET_CHILD_SUBREAPER in prctl(2))."""
    prctl.set_child_subreaper(1)


def set_name(name: str) -> None:
    """The name that ``ps`` shows in its comm column, at most 15 bytes."""
    prctl.set_name(name)


def set_title(title: str) -> None:
    """What ``/proc/PID/cmdline`` and the comm column show, instead of the host's path of the interpreter;
    of the latter the first word."""
    prctl.set_proctitle(title)
    prctl.set_name(title.split(maxsplit=1)[0][:15])


def set_capabilities(keep: frozenset[int] = frozenset(), *, inheritable: bool = False) -> None:
    """Make permitted and effective exactly ``keep``, inheritable and ambient empty (capset(2))."""
    mask = sum(1 << capability for capability in keep)
    low, high = mask & 0xFFFFFFFF, mask >> 32
    inherit = (low, high) if inheritable else (0, 0)
    header = struct.pack("=II", _LINUX_CAPABILITY_VERSION_3, 0)
    data = struct.pack("=6I", low, low, inherit[0], high, high, inherit[1])
    libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)
    libc.syscall(
        libc.syscall_number("capset"), ctypes.create_string_buffer(header), ctypes.create_string_buffer(data)
    )


def limit_bounding_set(keep: frozenset[int] = frozenset()) -> None:
    """Drop every capability but ``keep`` from the bounding set, up to the last one that this kernel knows."""
    for capability in range(_CAPABILITIES):
        try:
            if capability not in keep:
                libc.prctl(_PR_CAPBSET_DROP, capability)
        except OSError as error:
            if error.errno == errno.EINVAL and capability > 0:
                return  # The one before was the last.
            # Who may not drop any has no need to, where there is none.
            if error.errno != errno.EPERM or _is_bounding(capability):
                raise


def _is_bounding(capability: int) -> bool:
    try:
        return libc.prctl(_PR_CAPBSET_READ, capability) == 1
    except OSError:
        return False  # There is none of that number.


def lock_securebits() -> None:
    """Root regains nothing by exec or by changing uids, and nobody can change that (capabilities(7))."""
    locked = (
        prctl.SECBIT_NOROOT
        | prctl.SECBIT_NOROOT_LOCKED
        | prctl.SECBIT_NO_SETUID_FIXUP
        | prctl.SECBIT_NO_SETUID_FIXUP_LOCKED
        | prctl.SECBIT_KEEP_CAPS_LOCKED
    )
    prctl.set_securebits(locked)


def become(uid: int, gid: int) -> None:
    """Become an unprivileged user for good: no supplementary groups, no capability, no way back.

    As root the bounding set is emptied too, and no exec gains privilege any more. ``OSError(EPERM)`` when the
    caller is not privileged and asks for somebody else.
    """
    if os.geteuid() == 0:
        limit_bounding_set()
        set_no_new_privs()
        os.setgroups([])
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
    elif (os.getresuid(), os.getresgid()) != ((uid,) * 3, (gid,) * 3):
        raise PermissionError(1, f"cannot become uid {uid}")
    set_capabilities()


def become_keeping_capabilities(uid: int, gid: int) -> None:
    """Change uid and gid as a privileged process and keep the permitted capabilities.

    Used between leaving host root and entering a user namespace: ``unshare(CLONE_NEWUSER)`` is refused to
    processes without CAP_SYS_ADMIN where a distribution restricts it, and the new namespace must belong to
    the workload's uid, not to root.
    """
    if (os.getresuid(), os.getresgid()) == ((uid,) * 3, (gid,) * 3):
        return
    os.setgroups([])
    os.setresgid(gid, gid, gid)
    prctl.set_keepcaps(1)
    os.setresuid(uid, uid, uid)
    prctl.set_keepcaps(0)
    set_capabilities(frozenset({CAP_SYS_ADMIN, CAP_SETUID, CAP_SETGID}))


@contextmanager
def file_access_as(uid: int, gid: int) -> Iterator[None]:
    """Within the block this thread opens and creates files as ``uid:gid`` (setfsuid(2), setfsgid(2)).

    The kernel takes the file capabilities (CAP_DAC_OVERRIDE and its kin) out of the effective set when the
    file-system uid leaves 0; with root's supplementary groups gone too, a path is reached exactly when that
    user, without supplementary groups, could reach it. ``OSError`` when the change is not allowed.
    """
    if os.geteuid() != 0 or uid == 0:
        yield
        return
    groups = os.getgroups()
    _set_thread_groups([])
    try:
        _set_file_ids(uid, gid)
        yield
    finally:
        _set_file_ids(0, os.getegid())
        _set_thread_groups(groups)


def _set_file_ids(uid: int, gid: int) -> None:
    """Both calls report no failure: only a second one tells whether the first was carried out."""
    fsuid, fsgid = libc.syscall_number("setfsuid"), libc.syscall_number("setfsgid")
    libc.syscall(fsgid, gid)
    libc.syscall(fsuid, uid)
    if (_unsigned(libc.syscall(fsuid, -1)), _unsigned(libc.syscall(fsgid, -1))) != (uid, gid):
        raise PermissionError(1, f"cannot open files as uid {uid}, gid {gid}")


def _unsigned(number: int) -> int:
    return number & 0xFFFFFFFF


def _set_thread_groups(groups: Sequence[int]) -> None:
    """setgroups(2) for the calling thread alone; the C library's function would change all threads."""
    if groups != os.getgroups():
        array = (ctypes.c_uint32 * len(groups))(*groups)
        libc.syscall(libc.syscall_number("setgroups"), len(groups), array)
