"""System calls that the standard library does not wrap, with ``OSError`` for failures."""

from __future__ import annotations

import ctypes
import os
from functools import cache
from typing import Final

_libc: Final = ctypes.CDLL(None, use_errno=True)

# asm-generic numbers: the same on every architecture for calls added since Linux 5.2 (syscalls(2)).
SYS_OPEN_TREE: Final = 428
SYS_MOVE_MOUNT: Final = 429
SYS_MOUNT_SETATTR: Final = 442

_ARCH: Final[dict[str, dict[str, int]]] = {
    "x86_64": {
        "capset": 126,
        "ioprio_get": 252,
        "keyctl": 250,
        "pivot_root": 155,
        "setfsgid": 123,
        "setfsuid": 122,
        "setgroups": 116,
    },
    "aarch64": {
        "capset": 91,
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


def _c(argument: object) -> object:
    """Python integers become C longs: variadic calls would otherwise cut them to 32 bits."""
    return ctypes.c_long(argument) if isinstance(argument, int) else argument


def syscall(number: int, *arguments: object) -> int:
    """``syscall(2)``: the result, or ``OSError`` with the kernel's errno."""
    _libc.syscall.restype = ctypes.c_long
    result: int = _libc.syscall(ctypes.c_long(number), *(_c(a) for a in arguments))
    if result == -1:
        raise_errno()
    return result


def trim() -> None:
    """Give the kernel back what was allocated and is free again: malloc_trim(3), where there is one."""
    if hasattr(_libc, "malloc_trim"):
        _libc.malloc_trim(ctypes.c_size_t(0))


def prctl(option: int, *arguments: int) -> int:
    """``prctl(2)`` for the options that python-prctl does not know, all five arguments passed as longs."""
    padded = (*arguments, 0, 0, 0, 0)[:4]
    result: int = _libc.prctl(ctypes.c_int(option), *(ctypes.c_ulong(a) for a in padded))
    if result == -1:
        raise_errno()
    return result


def mount(source: str | None, target: str, fstype: str | None, flags: int, data: str | None = None) -> None:
    """``mount(2)``."""

    def text(value: str | None) -> bytes | None:
        return None if value is None else os.fsencode(value)

    result = _libc.mount(text(source), text(target), text(fstype), ctypes.c_ulong(flags), text(data))
    if result == -1:
        raise_errno(target)


def umount2(target: str, flags: int) -> None:
    """``umount2(2)``."""
    if _libc.umount2(os.fsencode(target), ctypes.c_int(flags)) == -1:
        raise_errno(target)


def raise_errno(path: str | None = None) -> None:
    """Raise the ``OSError`` of the call that just failed in this thread."""
    number = ctypes.get_errno()
    raise OSError(number, os.strerror(number), path) if path else OSError(number, os.strerror(number))
