"""The control socket in the event loop: messages from the supervisor, events to it."""

from __future__ import annotations

import contextlib
import socket
from collections import deque
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any, Final

from nsharness.linux import fds

if TYPE_CHECKING:
    import asyncio

_MAX_QUEUE: Final = 10_000
_MAX_BURST: Final = 32 * 1024

Message = dict[str, Any]


class Control:
    """One end of a SOCK_SEQPACKET pair. The end of the other side is the end of this process.

    Before there is a loop, messages are sent and received blocking; ``attach`` moves it into the loop.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._queue: deque[Message] = deque()
        self._incoming: asyncio.Queue[tuple[Message, list[int]] | None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._burst = False
        self._waiting: list[bytes] = []
        self._waiting_bytes = 0

    def receive(self) -> tuple[Message | None, list[int]]:
        """The next message, waiting for it; None at the end. For the time before ``attach``."""
        return fds.receive(self._socket)

    def attach(self) -> None:
        """From now on nothing blocks."""
        import asyncio

        self._socket.setblocking(False)
        self._loop = asyncio.get_running_loop()
        self._incoming = asyncio.Queue()
        self._loop.add_reader(self._socket, self._read, self._incoming)

    async def messages(self) -> AsyncIterator[tuple[Message, list[int]]]:
        """Messages with their descriptors, which the caller owns, until the other side has ended."""
        assert self._incoming is not None
        while (item := await self._incoming.get()) is not None:
            yield item

    def audit(self, line: bytes, at: int) -> None:
        """Send a copy of an audit event, of the moment ``at``, as JSON. It is dropped while the supervisor
        does not take it: the audit log is the record.

        The first of a turn of the event loop goes at once, because what it tells of goes then; all others of
        the same turn go together when it is over.
        """
        if self._queue:
            return
        if self._burst:
            if self._waiting_bytes + len(line) > _MAX_BURST:
                self._send_waiting()
            self._waiting = self._waiting or [b'{"event":"audits","at":%d,"lines":[' % at]
            self._waiting.append(line)
            self._waiting_bytes += len(line) + 1
            return
        if self._loop is not None:
            self._burst = True
            self._loop.call_soon(self._end_burst)
        self._send_copy(b'{"event":"audit",' + line[1:])

    def _end_burst(self) -> None:
        self._burst = False
        self._send_waiting()

    def _send_waiting(self) -> None:
        if self._waiting:
            head, *lines = self._waiting
            self._waiting, self._waiting_bytes = [], 0
            self._send_copy(head + b",".join(lines) + b"]}")

    def _send_copy(self, data: bytes) -> None:
        with contextlib.suppress(OSError):
            self._socket.send(data, socket.MSG_NOSIGNAL)

    def send(self, message: Message) -> None:
        """Send an event, in its order, as soon as the supervisor takes it."""
        self._send_waiting()
        if self._queue:
            if len(self._queue) < _MAX_QUEUE:
                self._queue.append(message)
            return
        try:
            fds.send(self._socket, message)
        except BlockingIOError:
            if self._loop is not None:
                self._queue.append(message)
                self._loop.add_writer(self._socket, self._flush)
        except (OSError, ValueError):
            # The supervisor is gone, which reading will tell, or the message is too large to be sent.
            return

    def close(self) -> None:
        """Say nothing further and hear nothing further. What was sent arrives: a unix socket that is closed
        with messages unread makes the other side lose its own (unix(7) calls it ECONNRESET)."""
        self._send_waiting()
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RD)
        self._socket.setblocking(False)
        with contextlib.suppress(OSError, ValueError):
            while True:
                message, descriptors = fds.receive(self._socket)
                fds.close_all(descriptors)
                if message is None:
                    break
        self._flush()
        self._socket.close()

    def _flush(self) -> None:
        while self._queue:
            try:
                fds.send(self._socket, self._queue[0])
            except BlockingIOError:
                return
            except (OSError, ValueError):
                pass
            self._queue.popleft()
        if self._loop is not None:
            self._loop.remove_writer(self._socket)

    def _read(self, incoming: asyncio.Queue[tuple[Message, list[int]] | None]) -> None:
        try:
            message, descriptors = fds.receive(self._socket)
        except BlockingIOError:
            return
        except (OSError, ValueError):
            message, descriptors = None, []
        if message is None:
            if self._loop is not None:
                self._loop.remove_reader(self._socket)
            incoming.put_nowait(None)
        else:
            incoming.put_nowait((message, descriptors))
