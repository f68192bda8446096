"""The ways of a request from a client to the proxy."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from tests.contract.engine import Entrance, Served
from tests.proxy.h2client import Http2
from tests.proxy.rig import Answer, read_answer, read_to_end, tunnel

Fields = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Road:
    """explicit: absolute form at the proxy; connect: through a tunnel; transparent: at the host's address."""

    kind: Literal["forward", "connect", "transparent"]
    tls: bool = False
    http2: bool = False

    @property
    def name(self) -> str:
        return "-".join((self.kind, "tls" if self.tls else "plain", "h2" if self.http2 else "h1"))

    @property
    def entrance(self) -> Entrance:
        if self.kind != "transparent":
            return "explicit"
        return "https" if self.tls else "http"

    @property
    def scheme(self) -> str:
        return "https" if self.tls else "http"


ROADS = (
    Road("forward"),
    Road("connect"),
    Road("connect", tls=True),
    Road("connect", tls=True, http2=True),
    Road("transparent"),
    Road("transparent", tls=True),
    Road("transparent", tls=True, http2=True),
)


@contextmanager
def opened(
    served: Served, road: Road, host: str, *, sni: str | None = None, trust: ssl.SSLContext | None = None
) -> Iterator[socket.socket]:
    """A connection on which the next thing is a request to ``host``."""
    port = 443 if road.tls else 80
    with served.dial(road.entrance, host) as client:
        if road.kind == "connect":
            answer = tunnel(client, f"{host}:{port}")
            if answer.status != 200:
                raise ConnectionRefusedError(answer.reason)
        if not road.tls:
            yield client
            return
        context = trust or served.trust()
        if sni is not None:
            context.check_hostname = False
        context.set_alpn_protocols(["h2"] if road.http2 else ["http/1.1"])
        with context.wrap_socket(client, server_hostname=sni or host) as secured:
            yield secured


def ask(
    served: Served,
    road: Road,
    host: str,
    path: str = "/",
    *fields: tuple[str, str],
    method: str = "GET",
    body: bytes | None = None,
    named: str | None = None,
    sni: str | None = None,
) -> Answer:
    """One request and its answer. ``named`` and ``sni`` are what it says its host is, where that is another
    one."""
    with opened(served, road, host, sni=sni) as client:
        return Conversation(client, road, host).ask(path, *fields, method=method, body=body, named=named)


class Conversation:
    """Requests, one after the other, on a connection that was ``opened``."""

    def __init__(self, client: socket.socket, road: Road, host: str) -> None:
        self._client, self._road, self._host = client, road, host
        self._http2 = Http2(_secured(client)) if road.http2 else None

    def ask(
        self,
        path: str,
        *fields: tuple[str, str],
        method: str = "GET",
        body: bytes | None = None,
        named: str | None = None,
    ) -> Answer:
        """The next one, and its answer."""
        road, host = self._road, self._host
        if self._http2 is not None:
            return self._http2.ask(_http2(road, named or host, path, method, fields), body)
        self._client.sendall(_http1(road, host, path, method, fields, body, named))
        return read_answer(self._client, method)


def everything(served: Served, road: Road, host: str, path: str) -> bytes:
    """All that a client gets to see of one answer, interim answers, trailers and errors included."""
    with opened(served, road, host) as client:
        if road.http2:
            connection = Http2(_secured(client))
            connection.finish(connection.send(_http2(road, host, path, "GET", ())))
            return repr(connection.streams).encode()
        # Something that ends the connection when it is read, which is after the answer.
        client.sendall(_http1(road, host, path, "GET", (), None, None) + b"NONSENSE\r\n\r\n")
        return read_to_end(client)


def _http1(
    road: Road, host: str, path: str, method: str, fields: Fields, body: bytes | None, named: str | None
) -> bytes:
    target = f"{road.scheme}://{host}{path}" if road.kind == "forward" else path
    length = () if body is None else (("Transfer-Encoding", "chunked"),)
    lines = [f"{method} {target} HTTP/1.1", f"Host: {named or host}"]
    lines += [f"{name}: {value}" for name, value in (*fields, *length)]
    chunks = b"" if body is None else b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
    return "\r\n".join([*lines, "", ""]).encode() + chunks


def _http2(road: Road, host: str, path: str, method: str, fields: Fields) -> list[tuple[str, str]]:
    pseudo = [(":method", method), (":scheme", road.scheme), (":authority", host), (":path", path)]
    return [*pseudo, *((name.lower(), value) for name, value in fields)]


def _secured(client: socket.socket) -> ssl.SSLSocket:
    assert isinstance(client, ssl.SSLSocket)
    assert client.selected_alpn_protocol() == "h2"
    return client
