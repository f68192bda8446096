"""A client of a live run's control socket; what the command line needs of a run, and nothing heavy."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from collections.abc import Iterator
from typing import Any, Final

from nsharness.errors import NsharnessError
from nsharness.linux import fds
from nsharness.supervisor.state import RunDirectory

_REQUEST_SECONDS: Final = 10.0


def connect(run: RunDirectory) -> socket.socket:
    """A connection to a live run; ``ConnectionError`` or ``FileNotFoundError`` when it has ended."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
    try:
        with run.identity.files(), folder_of(run) as folder:
            sock.connect(f"{folder}/{run.control_path.name}")
    except BaseException:
        sock.close()
        raise
    return sock


def request(
    run: RunDirectory, message: dict[str, Any], *, timeout: float = _REQUEST_SECONDS
) -> dict[str, Any] | None:
    """Ask a run one thing; None when it does not live."""
    try:
        with connect(run) as sock:
            sock.settimeout(timeout)
            fds.send(sock, message)
            reply, descriptors = fds.receive(sock)
            fds.close_all(descriptors)
            return reply
    except (FileNotFoundError, ConnectionError):
        return None
    except OSError as error:
        raise NsharnessError(f"cannot reach run {run.id}", why=error.strerror or str(error)) from error


def peer(sock: socket.socket) -> tuple[int, int]:
    """Who is at the other end: pid and uid (SO_PEERCRED in unix(7))."""
    pid, uid, _ = struct.unpack("=iII", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return int(pid), int(uid)


def peer_uid(sock: socket.socket) -> int:
    """The uid alone."""
    return peer(sock)[1]


@contextlib.contextmanager
def folder_of(run: RunDirectory) -> Iterator[str]:
    """The run's folder as a short path: a socket's address holds 107 bytes, a state directory may be deep."""
    descriptor = os.open(run.path, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)
