"""Landlock: a process gives up access to files for itself and all that it starts (landlock(7)).

An optional layer: kernels have it from 5.13 on, unless it is switched off. Version 1 forbids every rename and
link between folders, which ordinary programs need, so that version 2 (Linux 5.19) is the first one used.
"""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Collection, Iterable, Mapping
from types import MappingProxyType
from typing import Final, Protocol

from nsharness.linux import libc

USABLE: Final = 2
"""The first version of the interface that is of use here."""

# The same on every architecture (asm-generic).
_SYS_CREATE_RULESET: Final = 444
_SYS_ADD_RULE: Final = 445
_SYS_RESTRICT_SELF: Final = 446
_CREATE_RULESET_VERSION: Final = 1
_RULE_PATH_BENEATH: Final = 1

# linux/landlock.h
EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
REMOVE_DIR, REMOVE_FILE, MAKE_CHAR, MAKE_DIR = 1 << 4, 1 << 5, 1 << 6, 1 << 7
MAKE_REG, MAKE_SOCK, MAKE_FIFO, MAKE_BLOCK = 1 << 8, 1 << 9, 1 << 10, 1 << 11
MAKE_SYM, REFER, TRUNCATE, IOCTL_DEV = 1 << 12, 1 << 13, 1 << 14, 1 << 15
_SCOPES: Final = 1 << 0 | 1 << 1  # Abstract unix sockets, and signals.

_SINCE: Final[Mapping[int, int]] = MappingProxyType({2: REFER, 3: TRUNCATE, 5: IOCTL_DEV})
_SCOPES_SINCE: Final = 6
_FIRST: Final = (1 << 13) - 1
_OF_FILES: Final = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | IOCTL_DEV

_BITS: Final[Mapping[str, int]] = MappingProxyType(
    {
        "read": READ_FILE | READ_DIR,
        "execute": EXECUTE,
        "write": WRITE_FILE | TRUNCATE,
        # No device files: a workload could make only those of overlayfs, which say that a file is gone.
        "make": REMOVE_DIR | REMOVE_FILE | MAKE_DIR | MAKE_REG | MAKE_SOCK | MAKE_FIFO | MAKE_SYM | REFER,
        "device": IOCTL_DEV,
    }
)


class Grant(Protocol):
    """See ``nsharness.plan.access``, which this module does not need to know."""

    @property
    def path(self) -> str: ...
    @property
    def rights(self) -> Collection[str]: ...


def version() -> int:
    """The version of the interface that this kernel has; ``OSError`` when it has none, or has it off."""
    return libc.syscall(_SYS_CREATE_RULESET, None, 0, _CREATE_RULESET_VERSION)


def handled(abi: int) -> int:
    """The rights on files that a kernel with this version can take away."""
    return _FIRST | sum(bit for since, bit in _SINCE.items() if abi >= since)


def bits(rights: Collection[str], abi: int, *, directory: bool) -> int:
    """What is granted, as the kernel takes it for a folder or for a file."""
    wanted = sum(_BITS[right] for right in set(rights)) & handled(abi)
    return wanted if directory else wanted & _OF_FILES


class Ruleset:
    """What a process will be allowed, while that is collected."""

    def __init__(self, descriptor: int, abi: int) -> None:
        self._descriptor = descriptor
        self._abi = abi

    def allow(self, grants: Iterable[Grant], root: str = "") -> None:
        """Add what is granted; ``root`` is where the paths begin. One that is not there, or not to be
        reached, needs no grant."""
        for grant in grants:
            _add(self._descriptor, grant, root, self._abi)

    def restrict(self) -> None:
        """Allow this process, for good, nothing else; after ``set_no_new_privs``. ``OSError`` when the kernel
        refuses. The rules are used up."""
        try:
            libc.syscall(_SYS_RESTRICT_SELF, self._descriptor, 0)
        finally:
            os.close(self._descriptor)


def ruleset() -> Ruleset | None:
    """Rules that allow nothing yet; None when the kernel has no Landlock of use. ``OSError`` when it has, and
    refuses."""
    try:
        abi = version()
    except OSError:
        return None
    if abi < USABLE:
        return None
    attributes = [handled(abi)]
    if abi >= _SCOPES_SINCE:
        attributes += [0, _SCOPES]  # In between: network, which has a layer of its own.
    given = struct.pack(f"={len(attributes)}Q", *attributes)
    return Ruleset(libc.syscall(_SYS_CREATE_RULESET, given, len(given), 0), abi)


def _add(ruleset: int, grant: Grant, root: str, abi: int) -> None:
    try:
        place = os.open(root + grant.path, os.O_PATH | os.O_CLOEXEC)
    except (FileNotFoundError, PermissionError):
        return
    try:
        directory = stat.S_ISDIR(os.fstat(place).st_mode)
        allowed = bits(grant.rights, abi, directory=directory)
        if not allowed:  # Which the kernel takes for an error.
            return
        rule = struct.pack("=Qi", allowed, place)
        libc.syscall(_SYS_ADD_RULE, ruleset, _RULE_PATH_BENEATH, rule, 0)
    finally:
        os.close(place)
