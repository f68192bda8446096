"""Compile rules to seccomp filters with libseccomp, and install them (seccomp(2), seccomp_rule_add(3)).

The library is used to compile only, in a process that has nothing to hide; what comes out is a program of the
kernel's classic BPF, which is kept as bytes and installed by whoever is to be confined.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from typing import Final, Literal, Protocol

from nsharness.errors import NsharnessError
from nsharness.frozen import frozen
from nsharness.linux import libc

INSTALL: Final = "install libseccomp 2.4 or newer (Debian, Ubuntu: sudo apt-get install libseccomp2)"
"""What to do when the library is missing."""

_SONAMES: Final = ("libseccomp.so.2",)
_ALLOW: Final = 0x7FFF_0000
_ERRNO: Final = 0x0005_0000
_KILL_PROCESS: Final = 0x8000_0000
_ATTRIBUTE_BAD_ARCHITECTURE: Final = 2
_ATTRIBUTE_OPTIMIZE: Final = 8
_BINARY_TREE: Final = 2
_UNKNOWN_CALL: Final = -1
_COMPARE: Final = {"different": 1, "equal": 4, "greater": 6, "masked": 7}
_INSTRUCTION: Final = 8  # bytes
_MOST_INSTRUCTIONS: Final = 4096  # BPF_MAXINSNS

_PR_SET_SECCOMP: Final = 22
_SECCOMP_MODE_FILTER: Final = 2


class Argument(Protocol):
    """See ``nsharness.plan.syscalls``, which this module does not need to know."""

    @property
    def index(self) -> int: ...
    @property
    def comparison(self) -> Literal["equal", "greater", "different", "masked"]: ...
    @property
    def value(self) -> int: ...
    @property
    def mask(self) -> int: ...


class Rule(Protocol):
    @property
    def calls(self) -> Sequence[str]: ...
    @property
    def refusal(self) -> int: ...
    @property
    def when(self) -> Sequence[Argument]: ...


class Filter(Protocol):
    @property
    def name(self) -> str: ...
    @property
    def rules(self) -> Sequence[Rule]: ...
    @property
    def otherwise(self) -> int: ...


class _Comparison(ctypes.Structure):
    _fields_ = (
        ("argument", ctypes.c_uint),
        ("operation", ctypes.c_int),
        ("first", ctypes.c_uint64),
        ("second", ctypes.c_uint64),
    )


class _Program(ctypes.Structure):
    """``struct sock_fprog``."""

    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


@frozen
class Compiled:
    """A filter as the kernel takes it: its name, and instructions of eight bytes each."""

    name: str
    program: bytes


class Library:
    """libseccomp, loaded. ``NsharnessError`` with what to install when it cannot be."""

    def __init__(self, sonames: Sequence[str] = _SONAMES) -> None:
        self._library = _load(sonames)
        functions = self._library
        functions.seccomp_init.restype = ctypes.c_void_p
        functions.seccomp_init.argtypes = [ctypes.c_uint32]
        functions.seccomp_release.argtypes = [ctypes.c_void_p]
        functions.seccomp_release.restype = None
        functions.seccomp_attr_set.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_uint32]
        functions.seccomp_syscall_resolve_name.argtypes = [ctypes.c_char_p]
        functions.seccomp_rule_add_array.argtypes = [
            ctypes.c_void_p,
            ctypes.c_uint32,
            ctypes.c_int,
            ctypes.c_uint,
            ctypes.POINTER(_Comparison),
        ]
        functions.seccomp_export_bpf.argtypes = [ctypes.c_void_p, ctypes.c_int]

    def compile(self, filters: Sequence[Filter]) -> tuple[Compiled, ...]:
        """The filters for this machine's architecture; ``NsharnessError`` when one cannot be made."""
        return tuple(Compiled(one.name, self._compile(one)) for one in filters)

    def knows(self, call: str) -> bool:
        """Whether this machine has a call of that name, as far as the library knows."""
        return self._number(call) >= 0

    def _number(self, call: str) -> int:
        number: int = self._library.seccomp_syscall_resolve_name(call.encode())
        return number

    def _compile(self, wanted: Filter) -> bytes:
        context = self._library.seccomp_init(_action(wanted.otherwise))
        if not context:
            raise _failed(wanted, "seccomp_init", 0)
        try:
            self._must(wanted, "seccomp_attr_set", context, _ATTRIBUTE_BAD_ARCHITECTURE, _KILL_PROCESS)
            # From 2.5 on; without it the program is a longer chain of comparisons, and right as well.
            self._library.seccomp_attr_set(context, _ATTRIBUTE_OPTIMIZE, _BINARY_TREE)
            for rule in wanted.rules:
                conditions = (_Comparison * len(rule.when))(*(_comparison(each) for each in rule.when))
                for call in rule.calls:
                    # Negative: unknown, or of other architectures only.
                    if (number := self._number(call)) >= 0:
                        arguments = (_action(rule.refusal), number, len(rule.when), conditions)
                        self._must(wanted, "seccomp_rule_add_array", context, *arguments)
            return self._export(wanted, context)
        finally:
            self._library.seccomp_release(context)

    def _export(self, wanted: Filter, context: int) -> bytes:
        descriptor = os.memfd_create("filter", os.MFD_CLOEXEC)
        try:
            self._must(wanted, "seccomp_export_bpf", context, descriptor)
            program = os.pread(descriptor, _MOST_INSTRUCTIONS * _INSTRUCTION + 1, 0)
        finally:
            os.close(descriptor)
        if not program or len(program) % _INSTRUCTION or len(program) > _MOST_INSTRUCTIONS * _INSTRUCTION:
            raise _failed(wanted, "seccomp_export_bpf", 0)
        return program

    def _must(self, wanted: Filter, function: str, *arguments: object) -> None:
        result = getattr(self._library, function)(*arguments)
        if result < 0:
            raise _failed(wanted, function, -result)


def _load(sonames: Sequence[str]) -> ctypes.CDLL:
    for soname in sonames:
        try:
            return ctypes.CDLL(soname)
        except OSError:
            continue
    raise NsharnessError("cannot filter system calls", why=f"there is no {sonames[0]}", hint=INSTALL)


def _action(refusal: int) -> int:
    return _ERRNO | refusal if refusal else _ALLOW


def _comparison(condition: Argument) -> _Comparison:
    operation = _COMPARE[condition.comparison]
    if condition.comparison == "masked":
        return _Comparison(condition.index, operation, condition.mask, condition.value)
    return _Comparison(condition.index, operation, condition.value, 0)


def _failed(wanted: Filter, function: str, number: int) -> NsharnessError:
    why = f"{function}: {os.strerror(number)}" if number else f"{function} gave nothing usable"
    return NsharnessError(f"cannot compile the filter {wanted.name!r} of system calls", why=why, hint=INSTALL)


def install(compiled: Sequence[Compiled]) -> None:
    """Confine this thread, and all that it starts from now on, for good; after ``set_no_new_privs``.

    ``NsharnessError`` when the kernel does not take a filter. None at all is an error too.
    """
    if not compiled:
        raise NsharnessError("cannot filter system calls", why="no filter was compiled")
    for one in compiled:
        program = _Program(len(one.program) // _INSTRUCTION, one.program)
        try:
            libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.addressof(program))
        except OSError as error:
            raise NsharnessError(
                f"cannot install the filter {one.name!r} of system calls",
                why=error.strerror or str(error),
                hint="use a kernel with CONFIG_SECCOMP_FILTER",
            ) from None
