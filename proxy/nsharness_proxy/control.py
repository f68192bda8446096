"""The control socket in the event loop: messages from the supervisor, events to it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections import deque
from collections.abc import AsyncIterator
from typing import Any, Final

from nsharness.linux import fds

_MAX_QUEUE: Final = 10_000

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

    def receive(self) -> tuple[Message | None, list[int]]:
        """The next message, waiting for it; None at the end. For the time before ``attach``."""
        return fds.receive(self._socket)

    def attach(self) -> None:
        """From now on nothing blocks."""
        self._socket.setblocking(False)
        self._loop = asyncio.get_running_loop()
        self._incoming = asyncio.Queue()
        self._loop.add_reader(self._socket, self._read, self._incoming)

    async def messages(self) -> AsyncIterator[tuple[Message, list[int]]]:
        """Messages with their descriptors, which the caller owns, until the other side has ended."""
        assert self._incoming is not None
        while (item := await self._incoming.get()) is not None:
            yield item

    def send(self, message: Message) -> None:
        """Send an event, in its order, as soon as the supervisor takes it.

        Copies of audit events are dropped while it does not: the audit log is the record.
        """
        if self._queue:
            if message.get("event") != "audit" and len(self._queue) < _MAX_QUEUE:
                self._queue.append(message)
            return
        try:
            fds.send(self._socket, message)
        except BlockingIOError:
            if message.get("event") != "audit" and self._loop is not None:
                self._queue.append(message)
                self._loop.add_writer(self._socket, self._flush)
        except (OSError, ValueError):
            # The supervisor is gone, which reading will tell, or the message is too large to be sent.
            return

    def close(self) -> None:
        """Say nothing further and hear nothing further. What was sent arrives: a unix socket that is closed
        with messages unread makes the other side lose its own (unix(7) calls it ECONNRESET)."""
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
            asyncio.get_running_loop().remove_reader(self._socket)
            incoming.put_nowait(None)
        else:
            incoming.put_nowait((message, descriptors))
