"""Fork and exec inside the sandbox, with exactly the descriptors that were handed over.

Between the two the child has the workload's uid already, and a hostile workload can stop it there for good.
So whoever waits for it must go on seeing the end of those that it serves, and must not wait for ever.
"""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import select
import signal
import time
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Final

from nsharness.linux import libc
from nsharness.linux.fds import close_all
from nsharness.sandbox import terminal

_SYS_CLOSE_RANGE: Final = 436
_MAX_DESCRIPTOR: Final = 0x7FFF_FFFF
_EXEC_SECONDS: Final = 5.0
_NUDGE_MILLISECONDS: Final = 50


class ServedEndedError(Exception):
    """One of those whom we serve is gone: nothing is to be started any more."""


def spawn(
    argv: Sequence[str],
    environment: Mapping[str, str],
    cwd: str,
    descriptors: Sequence[int],
    served: Sequence[int] = (),
    controlling: int | None = None,
    rlimits: Sequence[tuple[str, int]] = (),
) -> int:
    """Start a program in a session of its own; ``descriptors`` become 0, 1, 2, … there. Returns its pid.

    Missing ones among the first three are ``/dev/null``; the one at place ``controlling`` is a terminal and
    becomes the session's. ``OSError`` with the errno of the failing step when
    the program could not be started: nothing is left then. ``ServedEndedError`` when the other end of one of
    the ``served`` pipes and sockets is closed meanwhile. ``rlimits`` are names in the ``resource`` module and
    what the program gets, at most.
    """
    if not argv:
        raise OSError(errno.EINVAL, "no program is named")
    report_read, report_write = os.pipe2(os.O_CLOEXEC)
    try:
        pid = os.fork()
        if pid == 0:
            _child(argv, environment, cwd, descriptors, report_write, controlling, rlimits)
    finally:
        close_all([report_write])
    try:
        number = _await_exec(pid, report_read, served)
    finally:
        os.close(report_read)
    if number:
        # It is about to end by itself, unless it was stopped on the way.
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        why = "something keeps it from starting" if number == errno.ETIMEDOUT else os.strerror(number)
        raise OSError(number, why, argv[0][:200])
    return pid


def _await_exec(pid: int, report: int, served: Sequence[int]) -> int:
    """0 once the child has become its program, otherwise the errno with which it, or our patience, ended."""
    deadline = time.monotonic() + _EXEC_SECONDS
    poll = select.poll()
    poll.register(report, select.POLLIN)
    for descriptor in served:
        poll.register(descriptor, 0)  # A hang-up is always reported.
    while time.monotonic() < deadline:
        ready = {descriptor for descriptor, _ in poll.poll(_NUDGE_MILLISECONDS)}
        if ready - {report}:
            raise ServedEndedError
        if ready:
            return int(os.read(report, 16) or 0)
        os.kill(pid, signal.SIGCONT)
    return errno.ETIMEDOUT


def _child(
    argv: Sequence[str],
    environment: Mapping[str, str],
    cwd: str,
    descriptors: Sequence[int],
    report: int,
    controlling: int | None,
    rlimits: Sequence[tuple[str, int]],
) -> None:
    """Between fork and exec; never returns."""
    try:
        signal.set_wakeup_fd(-1)
        os.setsid()
        report = _arrange(descriptors, report)
        if controlling is not None:
            terminal.take(controlling)
        for number in ignored():
            signal.signal(number, signal.SIG_DFL)
        os.chdir(cwd)
        for name, value in rlimits:
            _limit(getattr(resource, name), value)
        os.execvpe(argv[0], list(argv), dict(environment))  # noqa: S606
    except OSError as error:
        os.write(report, str(error.errno or 1).encode())
    except BaseException:  # noqa: BLE001 - nothing may get past os._exit
        os.write(report, b"22")
    finally:
        os._exit(127)


@cache
def ignored() -> tuple[int, ...]:
    """The signals that this process ignores: Python some, and whoever started us perhaps others. A program
    expects the defaults, to which exec(2) itself sets what has a handler.

    Asked once and for all, by then nobody may change it any more.
    """
    return tuple(
        int(number) for number in signal.valid_signals() if signal.getsignal(number) is signal.SIG_IGN
    )


def _limit(number: int, value: int) -> None:
    """Nobody can go above it again; what is less already stays (prlimit(2) works on our parent, too)."""
    hard = resource.getrlimit(number)[1]
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(number, (value, value))


def _arrange(descriptors: Sequence[int], report: int) -> int:
    """Put the descriptors in their places and close everything else; returns where the report pipe is now."""
    wanted = list(descriptors)
    while len(wanted) < 3:
        wanted.append(os.open(os.devnull, os.O_RDWR))
    # First all out of the way, then each into its place: no order of numbers can overwrite one.
    floor = max([len(wanted), report, *wanted]) + 1
    high = [fcntl.fcntl(descriptor, fcntl.F_DUPFD, floor) for descriptor in wanted]
    report = fcntl.fcntl(report, fcntl.F_DUPFD_CLOEXEC, floor)
    for place, descriptor in enumerate(high):
        os.dup2(descriptor, place, inheritable=True)
    close_all_but(*range(len(wanted)), report)
    return report


def close_all_but(*keep: int) -> None:
    """Close every other descriptor of this process (close_range(2))."""
    start = 0
    for descriptor in [*sorted(set(keep)), _MAX_DESCRIPTOR + 1]:
        if descriptor > start:
            libc.syscall(_SYS_CLOSE_RANGE, start, descriptor - 1, 0)
        start = descriptor + 1


def point_standard_streams_at_null() -> None:
    """Nothing of the caller's terminal or files stays on descriptors 0 to 2."""
    null = os.open(os.devnull, os.O_RDWR)
    for place in range(3):
        os.dup2(null, place)
    if null > 2:
        os.close(null)
