"""A fork that is the first process of a new pid namespace at once (CLONE_NEWPID in clone(2)).

Without it two forks are needed: after unshare(2) only children are in the new namespace, and a process that
is itself in a pid namespace of somebody else's can never take that back (EPERM in setns(2)). A fork of an
interpreter is one of the largest parts of a small sandbox's start.
"""

from __future__ import annotations

import ctypes
import os
import signal
from typing import Final

from nsharness.linux import libc

# Its functions keep the interpreter's lock, which the child then has as well.
_holding_lock: Final = ctypes.PyDLL(None, use_errno=True)
_holding_lock.syscall.restype = ctypes.c_long
_holding_lock.syscall.argtypes = (ctypes.c_long,) * 6
for _function in ("PyOS_BeforeFork", "PyOS_AfterFork_Child", "PyOS_AfterFork_Parent"):
    getattr(_holding_lock, _function).restype = None


def fork(namespaces: int) -> int:
    """``os.fork()`` into these namespaces (``CLONE_NEW…``): 0 in the child. ``OSError`` as clone(2) gives it.

    Only for a process with a single thread: the C library's locks, which its own fork would look after, are
    all free then. It learns of the child's id when the child forks again; until then nothing asks it.
    """
    _holding_lock.PyOS_BeforeFork()
    pid: int = _holding_lock.syscall(libc.syscall_number("clone"), namespaces | signal.SIGCHLD, 0, 0, 0, 0)
    if pid == 0:
        _holding_lock.PyOS_AfterFork_Child()
        return 0
    number = ctypes.get_errno()
    _holding_lock.PyOS_AfterFork_Parent()
    if pid == -1:
        raise OSError(number, os.strerror(number))
    return pid
