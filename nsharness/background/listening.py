"""The one place where the background supervisor listens: its socket, and the lock that says whose it is."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from nsharness.background.place import LOCK, SOCKET, PlaceError, check, folder
from nsharness.errors import NsharnessError
from nsharness.linux import fds

_BACKLOG: Final = 128
_LISTEN_FDS_START: Final = 3


@contextlib.contextmanager
def listening() -> Iterator[tuple[socket.socket, int]]:
    """The socket, systemd's where that has opened it (sd_listen_fds(3)), and the lock that says that it is
    ours, as long as the block lasts.

    ``RunningError`` when another one serves already, ``NsharnessError`` when there is no place for it.
    """
    place = _made()
    try:
        lock = os.open(place / LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(lock, 0)
            os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
            with _given() or _bound(place / SOCKET) as sock:
                yield sock, lock
        except BlockingIOError:
            raise RunningError(_holder(lock)) from None
        finally:
            os.close(lock)
    except OSError as error:
        raise NsharnessError(f"cannot listen in {place}", why=error.strerror or str(error)) from error


def _given() -> contextlib.AbstractContextManager[socket.socket] | None:
    if os.environ.get("LISTEN_PID") != str(os.getpid()) or os.environ.get("LISTEN_FDS") != "1":
        return None
    given = socket.socket(fileno=_LISTEN_FDS_START)
    given.set_inheritable(False)
    return given


@contextlib.contextmanager
def _bound(path: Path) -> Iterator[socket.socket]:
    path.unlink(missing_ok=True)  # of one that was killed: the lock is ours
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC) as made:
        mask = os.umask(0o177)
        try:
            made.bind(str(path))
        finally:
            os.umask(mask)
        made.listen(_BACKLOG)
        try:
            yield made
        finally:
            path.unlink(missing_ok=True)


class RunningError(Exception):
    """There is one already, with this ``pid``."""

    def __init__(self, pid: int) -> None:
        super().__init__(pid)
        self.pid = pid


def _made() -> Path:
    where = folder()
    if where is None:
        raise NsharnessError(
            "no place for the background supervisor's socket",
            why="XDG_RUNTIME_DIR is not set, and there is no directory for it",
            hint="set XDG_RUNTIME_DIR to a directory of yours with mode 0700",
        )
    try:
        with contextlib.suppress(FileExistsError):
            Path(where).mkdir(mode=0o700)
        check(where)
    except (PlaceError, OSError) as error:
        raise NsharnessError(f"cannot use {where}", why=error.strerror or str(error)) from error
    return Path(where)


def _holder(lock: int) -> int:
    text = os.pread(lock, 32, 0).strip()
    return int(text) if text.isdigit() else 0


def running() -> int:
    """The pid of the background supervisor that serves now; 0 when there is none."""
    where = folder()
    if where is None:
        return 0
    try:
        check(where)
        lock = os.open(f"{where}/{LOCK}", os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return 0
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return _holder(lock)
    finally:
        os.close(lock)
    return 0


def end(pid: int, seconds: float) -> bool:
    """Tell it to end; whether it has."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        if running() != pid:  # the number is another process's by now
            return True
        signal.pidfd_send_signal(pidfd, signal.SIGTERM)
        return fds.await_readable(pidfd, seconds)
    except ProcessLookupError:
        return True
    finally:
        os.close(pidfd)
