"""The channel to the supervisor: one JSON object a message; when it ends, so do we."""

from __future__ import annotations

import asyncio
import json
import socket
from typing import Any


class EventChannel:
    """Sends events in order, without blocking the event loop, and notices that the other side is gone.

    ``ended`` is set at end-of-file. A supervisor that does not read makes requests wait, not disappear.
    """

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.ended = asyncio.Event()
        self._sock = sock
        self._order = asyncio.Lock()
        asyncio.get_running_loop().add_reader(sock, self._look_for_end)

    async def send(self, event: dict[str, Any]) -> None:
        """Hand over one event. When nobody is there any more, ``ended`` is set and the event is dropped."""
        data = json.dumps(event, separators=(",", ":")).encode()
        async with self._order:
            try:
                await asyncio.get_running_loop().sock_sendall(self._sock, data)
            except (BrokenPipeError, ConnectionResetError):
                self.ended.set()

    def _look_for_end(self) -> None:
        try:
            message = self._sock.recv(1)
        except BlockingIOError:
            return
        except ConnectionResetError:
            message = b""
        if not message:
            asyncio.get_running_loop().remove_reader(self._sock)
            self.ended.set()
