"""A service that answers every request with 500 bytes, as fast as one Python process can, and ``/events``
with the time, fifty times: upstream.py FD [CERTIFICATE-AND-KEY]."""

from __future__ import annotations

import asyncio
import socket
import ssl
import sys
import time

import uvloop

_ANSWER = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 500\r\n\r\n" + b"lorem ips " * 50
_EVENTS = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
_END = b"\r\n\r\n"


class Service(asyncio.Protocol):
    """Counts heads; nothing that is measured here has a body."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._rest = b""

    def data_received(self, data: bytes) -> None:
        data = self._rest + data
        if data.startswith(b"GET /events "):
            self._transport.write(_EVENTS)  # type: ignore[attr-defined]
            self._tick(50)
            return
        self._transport.write(_ANSWER * data.count(_END))  # type: ignore[attr-defined]
        self._rest = data[data.rfind(_END) + len(_END) :] if _END in data else data

    def _tick(self, left: int) -> None:
        if not left:
            self._transport.write(b"0\r\n\r\n")  # type: ignore[attr-defined]
            return
        event = b"data: %d\n\n" % (time.time_ns() // 1000)
        self._transport.write(b"%x\r\n%s\r\n" % (len(event), event))  # type: ignore[attr-defined]
        asyncio.get_running_loop().call_later(0.02, self._tick, left - 1)


async def serve(sock: socket.socket, certificate: str | None) -> None:
    """Until it is killed."""
    context = None
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
    server = await asyncio.get_running_loop().create_server(Service, sock=sock, ssl=context)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(socket.socket(fileno=int(sys.argv[1])), sys.argv[2] if len(sys.argv) > 2 else None))
