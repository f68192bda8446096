"""System calls that the standard library does not wrap, with ``OSError`` for failures."""

from __future__ import annotations

import ctypes
import os
from functools import cache
from typing import Final

_libc: Final = ctypes.CDLL(None, use_errno=True)
# Said once: what a call takes is otherwise found out anew for each, and a start makes hundreds. Whatever a
# system call takes is as wide as a pointer, and arguments that it does not have are ignored.
_WIDEST: Final = 6
_libc.syscall.restype = ctypes.c_long
_libc.syscall.argtypes = (ctypes.c_long, *(ctypes.c_void_p,) * _WIDEST)
_libc.prctl.argtypes = (ctypes.c_int, *(ctypes.c_ulong,) * 4)
_libc.mount.argtypes = (*(ctypes.c_char_p,) * 3, ctypes.c_ulong, ctypes.c_char_p)
_libc.umount2.argtypes = (ctypes.c_char_p, ctypes.c_int)
_NOTHING: Final = (0,) * _WIDEST

# asm-generic numbers: the same on every architecture for calls added since Linux 5.2 (syscalls(2)).
SYS_OPEN_TREE: Final = 428
SYS_MOVE_MOUNT: Final = 429
SYS_MOUNT_SETATTR: Final = 442

_ARCH: Final[dict[str, dict[str, int]]] = {
    "x86_64": {
        "capset": 126,
        "clone": 56,
        "ioprio_get": 252,
        "keyctl": 250,
        "pivot_root": 155,
        "setfsgid": 123,
        "setfsuid": 122,
        "setgroups": 116,
    },
    "aarch64": {
        "capset": 91,
        "clone": 220,
        "ioprio_get": 31,
        "keyctl": 219,
        "pivot_root": 41,
        "setfsgid": 152,
        "setfsuid": 151,
        "setgroups": 159,
    },
}


@cache
def syscall_number(name: str) -> int:
    """The number of a call that differs between architectures; ``OSError(ENOSYS)`` on one we do not know."""
    machine = os.uname().machine
    try:
        return _ARCH[machine][name]
    except KeyError:
        raise OSError(38, f"system call {name} is not known for {machine}") from None


def syscall(number: int, *arguments: object) -> int:
    """``syscall(2)``: the result, or ``OSError`` with the kernel's errno.

    Arguments are integers, None, ``bytes`` that the kernel only reads, and objects of ctypes.
    """
    result: int = _libc.syscall(number, *arguments, *_NOTHING[len(arguments) :])
    if result == -1:
        raise_errno()
    return result


def trim() -> None:
    """Give the kernel back what was allocated and is free again: malloc_trim(3), where there is one."""
    if hasattr(_libc, "malloc_trim"):
        _libc.malloc_trim(ctypes.c_size_t(0))


def prctl(option: int, second: int = 0, third: int = 0, fourth: int = 0, fifth: int = 0) -> int:
    """``prctl(2)`` for the options that python-prctl does not know, all five arguments passed as longs."""
    result: int = _libc.prctl(option, second, third, fourth, fifth)
    if result == -1:
        raise_errno()
    return result


def mount(source: str | None, target: str, fstype: str | None, flags: int, data: str | None = None) -> None:
    """``mount(2)``."""
    where = source and os.fsencode(source)
    result = _libc.mount(
        where, os.fsencode(target), fstype and fstype.encode(), flags, data and os.fsencode(data)
    )
    if result == -1:
        raise_errno(target)


def umount2(target: str, flags: int) -> None:
    """``umount2(2)``."""
    if _libc.umount2(os.fsencode(target), flags) == -1:
        raise_errno(target)


def raise_errno(path: str | None = None) -> None:
    """Raise the ``OSError`` of the call that just failed in this thread."""
    number = ctypes.get_errno()
    raise OSError(number, os.strerror(number), path) if path else OSError(number, os.strerror(number))
