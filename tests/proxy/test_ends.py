"""Ends: inside TLS a client can tell a whole answer from one that was cut off, as at the host itself."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.proxy.rig import Proxy, Sandbox, policy, rule, tunnel
from tests.proxy.tlshost import Authority
from tests.proxy.upstreams import Handler, Request, Upstream, ok

CLOSE = "Connection: close\r\n"
UNTIL_CLOSED = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nas far as it goes"


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def host(authority: Authority) -> Iterator[Upstream]:
    with Upstream(tls=authority.server("secure.local")) as server:
        yield server


@pytest.fixture
def attached(proxy: Proxy, sandbox: Sandbox, host: Upstream, authority: Authority) -> Sandbox:
    rules = policy(rule("secure", "secure.local", inspect=True), upstreams={"secure.local:443": host.port})
    proxy.attach(sandbox, rules, upstream_ca=authority.pem)
    return sandbox


def read(proxy: Proxy, sandbox: Sandbox, more: str = "", method: str = "GET") -> tuple[bytes, bool]:
    """Everything that comes on one connection, and whether TLS ended it."""
    received = b""
    with sandbox.connect() as client:
        assert tunnel(client, "secure.local:443").status == 200
        context = proxy.trust()
        with context.wrap_socket(
            client, server_hostname="secure.local", suppress_ragged_eofs=False
        ) as secured:
            secured.sendall(f"{method} / HTTP/1.1\r\nHost: secure.local\r\n{more}\r\n".encode())
            try:
                while data := secured.recv(65536):
                    received += data
            except (ssl.SSLEOFError, ConnectionResetError):
                return received, False
            return received, True


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_whole_answer_is_followed_by_the_end_of_tls(
    proxy: Proxy, attached: Sandbox, host: Upstream, method: str
) -> None:
    host.handler = lambda request: [ok(b"" if request.line.startswith("HEAD") else b"ok")]
    received, ended = read(proxy, attached, CLOSE, method)
    assert received.startswith(b"HTTP/1.1 200 ")
    assert ended


def test_so_is_a_refusal_of_ours(proxy: Proxy, attached: Sandbox) -> None:
    received, ended = read(proxy, attached, "Host: other.local\r\n")
    assert received.startswith(b"HTTP/1.1 400 ")
    assert ended


@pytest.mark.parametrize("farewell", [True, False])
def test_an_answer_that_its_connection_ends_is_as_whole_as_it_was_for_us(
    proxy: Proxy, attached: Sandbox, host: Upstream, farewell: bool
) -> None:
    host.farewell = farewell
    host.handler = cut(UNTIL_CLOSED)
    received, ended = read(proxy, attached)
    assert received.endswith(b"as far as it goes")
    assert ended == farewell
    # The audit log says so too.
    line = proxy.audit("response" if farewell else "error", sandbox=attached.id)
    assert line.get("reason") == (None if farewell else "upstream-closed")


def test_an_answer_that_was_cut_off_has_no_end(proxy: Proxy, attached: Sandbox, host: Upstream) -> None:
    host.farewell = True
    host.handler = cut(ok(b"longer than that")[:-4])
    received, ended = read(proxy, attached)
    assert received.endswith(b"longer than ")
    assert not ended


class HangUpError(OSError):
    """Ends the host's connection."""


def cut(answer: bytes) -> Handler:
    def handler(_: Request) -> Iterator[bytes]:
        yield answer
        raise HangUpError

    return handler
