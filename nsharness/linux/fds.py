"""Descriptors: sealed memory, and messages that carry them."""

from __future__ import annotations

import array
import fcntl
import json
import os
import select
import socket
import sys
from collections.abc import Iterable, Sequence
from typing import Any, Final

MAX_MESSAGE: Final = 64 * 1024
"""Bytes of one message at most; anything larger travels in a memfd."""
MAX_DESCRIPTORS: Final = 16
"""Descriptors that one message carries at most."""

_SEALS: Final = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE


def memfd(name: str, content: bytes | None = None) -> int:
    """An anonymous file in memory, close-on-exec (memfd_create(2)); sealed when ``content`` is given."""
    descriptor = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    if content is not None:
        write_all(descriptor, content)
        seal(descriptor)
    return descriptor


def seal(descriptor: int) -> None:
    """Nobody changes this memory any more, its owner included (F_ADD_SEALS in fcntl(2))."""
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _SEALS)


def is_sealed(descriptor: int) -> bool:
    """Whether all four seals are set."""
    return fcntl.fcntl(descriptor, fcntl.F_GET_SEALS) & _SEALS == _SEALS


def write_all(descriptor: int, content: bytes) -> None:
    """Write everything, however often the kernel takes only a part."""
    view = memoryview(content)
    while view:
        view = view[os.write(descriptor, view) :]


def read_all(descriptor: int) -> bytes:
    """The whole content of a file, from its start; the shared offset stays where it is (pread(2))."""
    parts: list[bytes] = []
    offset = 0
    while part := os.pread(descriptor, 1 << 20, offset):
        parts.append(part)
        offset += len(part)
    return b"".join(parts)


def given(arguments: Sequence[str], *options: str) -> tuple[int, ...]:
    """The descriptors that a helper process was started with: ``OPTION N`` for each of the ``options``, in
    that order. ``SystemExit`` for anything else. Importing argparse would be a tenth of such a process's
    start."""
    names, numbers = list(arguments[::2]), arguments[1::2]
    if names != list(options) or len(numbers) != len(names) or not all(map(str.isdecimal, numbers)):
        print(f"usage: {' '.join(f'{option} N' for option in options)}", file=sys.stderr)
        sys.exit(2)
    return tuple(map(int, numbers))


def read_line(descriptor: int) -> bytes:
    """The first line of a file with its end, all of a file without one; the shared offset stays as it is."""
    line = b""
    while part := os.pread(descriptor, 1 << 15, len(line)):
        before, end, _ = part.partition(b"\n")
        line += before + end
        if end:
            break
    return line


def close_all(descriptors: Iterable[int]) -> None:
    """Close each of them; one that is already closed is no error."""
    for descriptor in descriptors:
        try:
            os.close(descriptor)
        except OSError:
            continue


def await_readable(descriptor: int, seconds: float) -> bool:
    """Whether there is something to read, or the end, within that time; of a pidfd: whether its process has
    ended (pidfd_open(2)). By poll(2): select(2) takes no descriptor from 1024 on."""
    return _await(descriptor, select.POLLIN, seconds)


def await_writable(descriptor: int, seconds: float | None) -> bool:
    """Whether something can be written, or nobody reads any more, within that time; None is for ever."""
    return _await(descriptor, select.POLLOUT, seconds)


def _await(descriptor: int, event: int, seconds: float | None) -> bool:
    poll = select.poll()
    poll.register(descriptor, event)
    return bool(poll.poll(None if seconds is None else seconds * 1000))


def message_pair() -> tuple[socket.socket, socket.socket]:
    """Two connected sockets that keep message borders and see each other's end (unix(7), SOCK_SEQPACKET)."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)


def send(
    sock: socket.socket, message: dict[str, Any], descriptors: Sequence[int] = (), *, wait: bool = True
) -> None:
    """One JSON object as one message, with descriptors (SCM_RIGHTS).

    ``ValueError`` when it is too large; ``OSError`` as ``sendmsg(2)`` gives it, EPIPE when nobody listens,
    EAGAIN when the other side does not read and ``wait`` is False.
    """
    data = json.dumps(message, separators=(",", ":")).encode()
    if len(data) > MAX_MESSAGE or len(descriptors) > MAX_DESCRIPTORS:
        raise ValueError(f"message of {len(data)} bytes with {len(descriptors)} descriptors is too large")
    ancillary = []
    if descriptors:
        ancillary.append((socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors)))
    sock.sendmsg([data], ancillary, socket.MSG_NOSIGNAL | (0 if wait else socket.MSG_DONTWAIT))


def receive(sock: socket.socket) -> tuple[dict[str, Any] | None, list[int]]:
    """The next message and its descriptors, which are close-on-exec; ``(None, [])`` at the end.

    A message that was cut, or is no JSON object, is a ``ValueError``; its descriptors are closed.
    """
    data, ancillary, flags, _ = sock.recvmsg(
        MAX_MESSAGE, socket.CMSG_SPACE(MAX_DESCRIPTORS * 4), socket.MSG_CMSG_CLOEXEC
    )
    descriptors: list[int] = []
    for level, kind, payload in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            numbers = array.array("i")
            numbers.frombytes(payload[: len(payload) - len(payload) % numbers.itemsize])
            descriptors.extend(numbers)
    if not data and not descriptors:
        return None, []
    try:
        if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
            raise ValueError("message was cut")
        message = json.loads(data)
        if not isinstance(message, dict):
            raise ValueError("message is no JSON object")
    except (ValueError, RecursionError) as error:
        close_all(descriptors)
        raise ValueError(f"unusable message: {error}") from None
    return message, descriptors
