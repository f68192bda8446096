"""Hosts for the proxy to connect to: small real servers that keep every byte they get."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Self

DEADLINE = 10.0


@dataclass(frozen=True, slots=True)
class Request:
    """One request as an upstream parsed it."""

    line: str
    headers: tuple[tuple[str, str], ...]
    body: bytes
    connection: int

    def all(self, name: str) -> list[str]:
        """The values of a header."""
        return [value for key, value in self.headers if key.lower() == name.lower()]


Handler = Callable[[Request], Iterable[bytes]]


def ok(body: bytes = b"ok", *headers: bytes) -> bytes:
    """An ordinary answer."""
    lines = [b"HTTP/1.1 200 OK", b"Content-Length: %d" % len(body), *headers]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


@dataclass
class Upstream:
    """Listens on loopback; answers every request with what ``handler`` gives, piece by piece.

    ``received`` is what came over all connections (after TLS), ``requests`` what it was understood as.
    A request's body is read whole before the handler is called, unless ``keep_body`` is false: then it
    is counted only, and ``Request.body`` is its length in decimal.
    """

    handler: Handler = lambda request: [ok()]
    tls: ssl.SSLContext | None = None
    keep_body: bool = True
    greeting: bytes = b""
    farewell: bool = False
    """Whether a connection is ended as TLS has it, with a close_notify."""
    received: bytearray = field(default_factory=bytearray)
    requests: list[Request] = field(default_factory=list)
    server_names: list[str | None] = field(default_factory=list)
    protocols: list[str | None] = field(default_factory=list)
    clients: list[str | None] = field(default_factory=list)
    """Whom each TLS client's certificate was for; None for a client that showed none."""
    accepted: int = 0

    def __enter__(self) -> Self:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port: int = self._listener.getsockname()[1]
        self._open: set[socket.socket] = set()
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()
        if self.tls is not None:
            self.tls.sni_callback = lambda _, name, __: self.server_names.append(name)
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._threads[0].join(DEADLINE)
        self.hang_up()
        self._listener.close()

    def hang_up(self) -> None:
        """End every connection: the proxy may keep some for what comes next."""
        for connection in tuple(self._open):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads[1:]:
            thread.join(DEADLINE)
        del self._threads[1:]

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.accepted += 1
            thread = threading.Thread(target=self._serve, args=(connection, self.accepted), daemon=True)
            thread.start()
            self._threads.append(thread)

    def _serve(self, connection: socket.socket, number: int) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._open.add(connection)
        try:
            if self.tls is not None:
                self._open.discard(connection)
                secured = self.tls.wrap_socket(connection, server_side=True)
                self.protocols.append(secured.selected_alpn_protocol())
                self.clients.append(_common_name(secured))
                connection = secured
                self._open.add(connection)
            connection.sendall(self.greeting)
            reader = _Reader(connection, self.received, self.keep_body)
            while (request := reader.request(number)) is not None:
                self.requests.append(request)
                for piece in self.handler(request):
                    connection.sendall(piece)
        except OSError:
            return
        finally:
            self._open.discard(connection)
            if self.farewell and isinstance(connection, ssl.SSLSocket):
                with contextlib.suppress(OSError):
                    connection.settimeout(0)  # whatever the other side says to that
                    connection.unwrap()
            connection.close()


def _common_name(secured: ssl.SSLSocket) -> str | None:
    subject: Any = (secured.getpeercert() or {}).get("subject", ())
    return next((value for ((name, value),) in subject if name == "commonName"), None)


class _Reader:
    """Reads requests the way a server does that believes whatever framing it is told."""

    def __init__(self, connection: socket.socket, received: bytearray, keep_body: bool) -> None:
        self._connection = connection
        self._received = received
        self._keep_body = keep_body
        self._buffer = b""

    def _more(self) -> bool:
        data = self._connection.recv(1 << 16)
        if self._keep_body:
            self._received += data
        self._buffer += data
        return bool(data)

    def request(self, number: int) -> Request | None:
        while b"\r\n\r\n" not in self._buffer:
            if not self._more():
                return None
        head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
        if not self._keep_body:
            self._received += head
        line, *fields = head.decode("latin-1").split("\r\n")
        pairs = [text.partition(":")[::2] for text in fields]
        headers = tuple((name, value.strip()) for name, value in pairs)
        named = {name.lower(): value for name, value in headers}
        if named.get("transfer-encoding") == "chunked":
            body = b"".join(self._chunks())
        else:
            body = self._exactly(int(named.get("content-length", "0")))
        return Request(line, headers, body, number)

    def _exactly(self, length: int) -> bytes:
        if not self._keep_body:
            return self._count(length)
        while len(self._buffer) < length:
            if not self._more():
                raise OSError
        body, self._buffer = self._buffer[:length], self._buffer[length:]
        return body

    def _count(self, length: int) -> bytes:
        left = length - len(self._buffer)
        self._buffer = b""
        while left > 0:
            data = self._connection.recv(min(left, 1 << 16))
            if not data:
                raise OSError
            left -= len(data)
        return str(length).encode()

    def _chunks(self) -> Iterator[bytes]:
        while True:
            while b"\r\n" not in self._buffer:
                if not self._more():
                    raise OSError
            size, _, self._buffer = self._buffer.partition(b"\r\n")
            chunk = self._exactly(int(size, 16) + 2)
            if chunk == b"\r\n":
                return
            yield chunk[:-2]
