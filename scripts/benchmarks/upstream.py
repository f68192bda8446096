"""A service that answers every request with 500 bytes, as fast as one Python process can, and ``/events``
with the time, fifty times; ``/bytes/N`` with N bytes by chance; to a POST when its body was read:
upstream.py FD [CERTIFICATE-AND-KEY]."""

from __future__ import annotations

import asyncio
import os
import re
import socket
import ssl
import sys
import time

import uvloop

_ANSWER = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 500\r\n\r\n" + b"lorem ips " * 50
_EVENTS = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
_END = b"\r\n\r\n"
_BYTES = re.compile(rb"GET /bytes/(\d+) ")
_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)
_PIECE = os.urandom(1 << 16)


class Service(asyncio.Protocol):
    """Counts heads; only what is asked for by itself has a body."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._rest = b""
        self._body = 0  # Bytes of a request's that are still to come.
        self._left = 0  # Bytes of an answer's that are still to be sent.
        self._paused = False

    def data_received(self, data: bytes) -> None:
        if self._body:
            self._read_body(len(data))
            return
        data = self._rest + data
        if data.startswith(b"POST ") and _END in data:
            head, _, body = data.partition(_END)
            found = _LENGTH.search(head)
            self._body = int(found[1]) if found else 0
            if b"100-continue" in head.lower():
                self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")  # type: ignore[attr-defined]
            self._read_body(len(body))
            return
        if (asked := _BYTES.match(data)) is not None:
            self._left = int(asked[1])
            self._transport.write(  # type: ignore[attr-defined]
                b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % self._left
            )
            self._send_body()
            return
        if data.startswith(b"GET /events "):
            self._transport.write(_EVENTS)  # type: ignore[attr-defined]
            self._tick(50)
            return
        self._transport.write(_ANSWER * data.count(_END))  # type: ignore[attr-defined]
        self._rest = data[data.rfind(_END) + len(_END) :] if _END in data else data

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        self._send_body()

    def _send_body(self) -> None:
        while self._left and not self._paused:
            piece = _PIECE[: self._left]
            self._left -= len(piece)
            self._transport.write(piece)  # type: ignore[attr-defined]

    def _read_body(self, came: int) -> None:
        self._body -= came
        if self._body <= 0:
            self._body = 0
            self._transport.write(_ANSWER)  # type: ignore[attr-defined]

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
