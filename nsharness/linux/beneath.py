"""Open paths below a directory without ever leaving it or following a symbolic link (openat2(2))."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from nsharness.linux import libc

_SYS_OPENAT2: Final = 437
_RESOLVE_NO_MAGICLINKS: Final = 0x02
_RESOLVE_NO_SYMLINKS: Final = 0x04
_RESOLVE_BENEATH: Final = 0x08
_RESOLVE: Final = _RESOLVE_BENEATH | _RESOLVE_NO_SYMLINKS | _RESOLVE_NO_MAGICLINKS


def open_beneath(top: int, path: str, flags: int) -> int:
    """A descriptor for ``path`` below the directory ``top``, close-on-exec; ``""`` is the directory itself.

    ``OSError`` with ELOOP when a symbolic link is anywhere on the way or at its end, EXDEV for ``..``.
    """
    how = struct.pack("=QQQ", flags | os.O_CLOEXEC | os.O_NOFOLLOW, 0, _RESOLVE)
    return libc.syscall(_SYS_OPENAT2, top, os.fsencode(path) or b".", how, len(how))


@contextmanager
def opened(top: int, path: str, flags: int) -> Iterator[int]:
    """``open_beneath`` for a block."""
    descriptor = open_beneath(top, path, flags)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def set_mode(place: int, mode: int) -> None:
    """chmod(2) of exactly what an O_PATH descriptor names, which must be no symbolic link."""
    Path(f"/proc/self/fd/{place}").chmod(mode)
