"""A service that answers every request with 500 bytes, as fast as one Python process can: upstream.py FD."""

from __future__ import annotations

import asyncio
import socket
import sys

_ANSWER = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 500\r\n\r\n" + b"x" * 500
_END = b"\r\n\r\n"


class Service(asyncio.Protocol):
    """Counts heads; nothing that is measured here has a body."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._rest = b""

    def data_received(self, data: bytes) -> None:
        data = self._rest + data
        self._transport.write(_ANSWER * data.count(_END))
        self._rest = data[data.rfind(_END) + len(_END) :] if _END in data else data


async def serve(sock: socket.socket) -> None:
    """Until it is killed."""
    server = await asyncio.get_running_loop().create_server(Service, sock=sock)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(socket.socket(fileno=int(sys.argv[1]))))
