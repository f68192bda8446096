"""The hosts at the other end. They record every byte, and answer by the path that they are asked for."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from nsharness.credentials.map import CredentialMap
from nsharness.credentials.secret import Secret
from nsharness.policy.model import Policy
from tests.contract.engine import Setup
from tests.proxy.rig import DEADLINE, new_token, policy, rule
from tests.proxy.tlshost import Authority
from tests.proxy.upstreams import Request, Upstream, ok

RIGHT, OTHER, TUNNEL, LISTED = "right.local", "other.local", "tunnel.local", "203.0.113.9"
UNVERIFIED, PRIVATE, KEYED = "unverified.local", "localhost", "keyed.local"
PLACEHOLDER = "sk-nsph0123456789abcdefABCDEF"

SWITCH = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
)


@dataclass
class World:
    """``token`` is the credential of the right host, which no other host may see. ``go_on`` lets an answer
    continue that waits for it."""

    token: str
    key: str
    plain: Mapping[str, Upstream]
    tls: Mapping[str, Upstream]
    authority: str
    go_on: threading.Semaphore

    def hosts(self) -> list[Upstream]:
        return [*self.plain.values(), *self.tls.values()]

    def forget(self) -> None:
        for host in self.hosts():
            host.requests.clear()
            host.received.clear()

    def hang_up(self) -> None:
        """End all connections: an engine may keep them for the next request, and a test leaves none."""
        for host in self.hosts():
            host.hang_up()

    def requests(self, name: str) -> list[Request]:
        """What a host was asked, over TLS or without."""
        return [request for host in self._named(name) for request in host.requests]

    def received(self, *names: str) -> bytes:
        """Everything that these hosts received."""
        return b"".join(bytes(host.received) for name in names for host in self._named(name))

    def _named(self, name: str) -> list[Upstream]:
        return [hosts[name] for hosts in (self.plain, self.tls) if name in hosts]

    def policy(self, **more: object) -> Policy:
        ports = {f"{name}:80": host.port for name, host in self.plain.items()}
        ports |= {f"{name}:443": host.port for name, host in self.tls.items()}
        return policy(
            rule("no-delete", RIGHT, methods=["DELETE"], deny=True),
            rule("right", RIGHT, headers=["Authorization"], paths=["/ok/**"]),
            rule("other", OTHER, LISTED, inspect=True),
            rule("tunnel", TUNNEL),
            rule("unverified", UNVERIFIED, headers=["Authorization"]),
            rule("private", PRIVATE),
            rule("keyed", KEYED, secrets=("api.key",), placeholders=frozenset({"header", "basic"})),
            rule("below", "*.below.local", inspect=True),
            upstreams=ports,
            stray_placeholders="block",
            **more,
        )

    def setup(self, **more: object) -> Setup:
        header = {"Authorization": Secret(f"Bearer {self.token}")}
        credentials = CredentialMap(
            {RIGHT: header, UNVERIFIED: header},
            secrets={"api.key": Secret(self.key), "right.token": Secret(self.token)},
            entitled={KEYED: ["api.key"]},
        )
        placeholders = {PLACEHOLDER: "api.key"}
        return Setup(self.policy(), credentials, self.authority, placeholders=placeholders, **more)  # type: ignore[arg-type]


@contextmanager
def world(folder: Path) -> Iterator[World]:
    """All of them, running."""
    authority, stranger = Authority(folder), Authority(folder)
    token, go_on = new_token(), threading.Semaphore(0)

    def answer(request: Request) -> Iterator[bytes]:
        return _answer(request, token.encode(), go_on)

    with ExitStack() as stack:
        plain = {
            name: stack.enter_context(Upstream(answer))
            for name in (RIGHT, OTHER, TUNNEL, LISTED, KEYED, "a.below.local")
        }
        tls = {
            name: stack.enter_context(
                Upstream(answer, tls=(stranger if name == UNVERIFIED else authority).server(name))
            )
            for name in (RIGHT, OTHER, TUNNEL, UNVERIFIED)
        }
        yield World(token, new_token("sk-"), plain, tls, authority.pem, go_on)


def _answer(request: Request, token: bytes, go_on: threading.Semaphore) -> Iterator[bytes]:
    path = request.line.split()[1]
    if path == "/ok/echo":
        sent = "\n".join(f"{name}: {value}" for name, value in request.headers).encode()
        yield ok(sent, b"X-Echo: " + token, b"Set-Cookie: a=" + token).replace(b" OK", b" OK " + token)
    elif path == "/ok/hints":
        yield b"HTTP/1.1 103 Early Hints\r\nLink: <" + token + b">\r\n\r\n"
        yield b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-T\r\n\r\n"
        yield b"3\r\nend\r\n0\r\nX-T: " + token + b"\r\n\r\n"
    elif path == "/ok/malformed":
        yield b"HTTP/1.1 2x0 " + token + b"\r\nX: " + token + b"\r\n\r\n"
    elif path == "/ok/socket":
        yield SWITCH
        yield b"\x81" + bytes([len(token)]) + token + b"\x88\x02\x03\xe8"
    elif path == "/ok/events":
        yield b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
        for number in range(3):
            event = b"data: %d\n\n" % number
            yield b"%x\r\n%s\r\n" % (len(event), event)
            assert go_on.acquire(timeout=DEADLINE)
        yield b"0\r\n\r\n"
    else:
        yield ok(request.body or b"ok")
