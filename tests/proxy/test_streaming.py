"""Bodies pass as they come, in both directions, and what cannot go on does not pile up."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest

from tests.proxy.rig import DEADLINE, Proxy, Sandbox, policy, read_answer, rule
from tests.proxy.upstreams import Request, Upstream, ok
from tests.support import waiting

MEGABYTE = 1 << 20


def attach(proxy: Proxy, sandbox: Sandbox, upstream: Upstream) -> None:
    rules = policy(
        rule("wiki", "wiki.local", headers=["Authorization"]), upstreams={"wiki.local:80": upstream.port}
    )
    proxy.attach(sandbox, rules)


def post(length: int | None) -> bytes:
    framing = "Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}"
    return f"POST http://wiki.local/ HTTP/1.1\r\nHost: wiki.local\r\n{framing}\r\n\r\n".encode()


def test_an_event_arrives_before_the_next_one_is_sent(proxy: Proxy, sandbox: Sandbox) -> None:
    """Server-sent events: each is awaited by the client before the host goes on."""
    go_on = threading.Semaphore(0)

    def events(request: Request) -> Iterator[bytes]:
        yield b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
        for number in range(5):
            event = b"data: %d\n\n" % number
            yield b"%x\r\n%s\r\n" % (len(event), event)
            assert go_on.acquire(timeout=DEADLINE)
        yield b"0\r\n\r\n"

    with Upstream(events) as upstream:
        attach(proxy, sandbox, upstream)
        with sandbox.connect() as client, client.makefile("rb") as lines:
            client.sendall(b"GET http://wiki.local/ HTTP/1.1\r\nHost: wiki.local\r\n\r\n")
            while lines.readline() != b"\r\n":
                pass
            for number in range(5):
                assert [lines.readline() for _ in range(4)] == [
                    b"9\r\n",
                    b"data: %d\n" % number,
                    b"\n",
                    b"\r\n",
                ]
                go_on.release()
            assert lines.readline() == b"0\r\n"


def test_a_request_body_reaches_the_host_before_it_is_complete(proxy: Proxy, sandbox: Sandbox) -> None:
    with Upstream() as upstream:
        attach(proxy, sandbox, upstream)
        with sandbox.connect() as client:
            client.sendall(post(None) + b"5\r\nfirst\r\n")
            waiting.eventually(lambda: b"first" in upstream.received)
            client.sendall(b"4\r\nlast\r\n0\r\n\r\n")
            assert read_answer(client).status == 200
        assert upstream.requests[0].body == b"firstlast"


@pytest.mark.parametrize("chunked", [False, True])
def test_a_large_download_takes_no_memory(proxy: Proxy, sandbox: Sandbox, chunked: bool) -> None:
    size = 50 * MEGABYTE

    def body(request: Request) -> Iterator[bytes]:
        framing = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: %d" % size
        yield b"HTTP/1.1 200 OK\r\n%s\r\n\r\n" % framing
        for _ in range(size // MEGABYTE):
            yield b"100000\r\n%s\r\n" % bytes(MEGABYTE) if chunked else bytes(MEGABYTE)
        if chunked:
            yield b"0\r\n\r\n"

    with Upstream(body) as upstream:
        attach(proxy, sandbox, upstream)
        before = proxy.memory()
        answer = sandbox.get("http://wiki.local/")
        assert len(answer.body) == size
        assert proxy.memory() - before < 16 * MEGABYTE
    assert proxy.audit("response", sandbox=sandbox.id)["received"] == size


def test_a_large_upload_takes_no_memory(proxy: Proxy, sandbox: Sandbox) -> None:
    size = 50 * MEGABYTE
    with Upstream(keep_body=False) as upstream:
        attach(proxy, sandbox, upstream)
        before = proxy.memory()
        with sandbox.connect() as client:
            client.sendall(post(size))
            for _ in range(size // MEGABYTE):
                client.sendall(bytes(MEGABYTE))
            assert read_answer(client).status == 200
        assert upstream.requests[0].body == str(size).encode()
        assert proxy.memory() - before < 16 * MEGABYTE
    assert proxy.audit("response", sandbox=sandbox.id)["sent"] == size


def push(client: socket.socket, most: int, data: bytes = bytes(MEGABYTE)) -> int:
    """Send it again and again until the other side takes no more, for a while."""
    client.settimeout(0.5)
    sent = 0
    try:
        while sent < most:
            client.sendall(data)
            sent += len(data)
    except TimeoutError:
        pass
    return sent


def test_a_body_for_a_host_that_does_not_read_is_not_collected(proxy: Proxy, sandbox: Sandbox) -> None:
    """Back-pressure: the client is made to wait."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        rules = policy(rule("wiki", "wiki.local"), upstreams={"wiki.local:80": silent.getsockname()[1]})
        proxy.attach(sandbox, rules)
        before = proxy.memory()
        with sandbox.connect() as client:
            client.sendall(post(1 << 40))
            assert push(client, 200 * MEGABYTE) < 100 * MEGABYTE
            assert proxy.memory() - before < 16 * MEGABYTE


def test_requests_behind_one_that_waits_are_not_collected(proxy: Proxy, sandbox: Sandbox) -> None:
    """What a client sends before it has an answer stays with the client."""
    answer_now = threading.Event()

    def late(request: Request) -> Iterator[bytes]:
        answer_now.wait(DEADLINE)
        yield ok()

    with Upstream(late) as upstream:
        attach(proxy, sandbox, upstream)
        before = proxy.memory()
        with sandbox.connect() as client:
            client.sendall(b"GET http://wiki.local/ HTTP/1.1\r\nHost: wiki.local\r\n\r\n")
            assert push(client, 200 * MEGABYTE) < 100 * MEGABYTE
            assert proxy.memory() - before < 16 * MEGABYTE
            answer_now.set()
            assert read_answer(client).status == 200


def test_refusals_that_are_not_read_are_not_collected(proxy: Proxy, sandbox: Sandbox) -> None:
    """Nor do requests that come all at once hold up those of others."""
    proxy.attach(sandbox, policy())
    before = proxy.memory()
    with sandbox.connect() as client, sandbox.connect() as other:
        flood = b"GET http://evil.local/ HTTP/1.1\r\nHost: evil.local\r\n\r\n" * 2000
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        assert push(client, 20 * MEGABYTE, flood) < 10 * MEGABYTE
        other.sendall(b"GET http://evil.local/ HTTP/1.1\r\nHost: evil.local\r\n\r\n")
        assert read_answer(other).status == 403
        assert proxy.memory() - before < 8 * MEGABYTE


def test_a_client_that_does_not_read_makes_its_host_wait_and_nobody_else(
    proxy: Proxy, sandbox: Sandbox
) -> None:
    sent = 0

    def endless(request: Request) -> Iterator[bytes]:
        nonlocal sent
        if "other" in request.line:
            yield ok()
            return
        yield b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (1 << 40)
        while True:
            yield bytes(MEGABYTE)
            sent += MEGABYTE

    with Upstream(endless) as upstream:
        attach(proxy, sandbox, upstream)
        before = proxy.memory()
        with sandbox.connect() as client:
            client.sendall(b"GET http://wiki.local/ HTTP/1.1\r\nHost: wiki.local\r\n\r\n")
            assert client.recv(1)
            for _ in range(10):
                assert sandbox.get("http://wiki.local/other").status == 200
            assert proxy.memory() - before < 16 * MEGABYTE
            assert sent < 100 * MEGABYTE


def test_a_client_that_leaves_takes_its_connection_to_the_host_with_it(
    proxy: Proxy, sandbox: Sandbox
) -> None:
    ended = threading.Event()

    def endless(request: Request) -> Iterator[bytes]:
        yield b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (1 << 40)
        try:
            while True:
                yield bytes(1024)
        finally:
            ended.set()

    with Upstream(endless) as upstream:
        attach(proxy, sandbox, upstream)
        with sandbox.connect() as client:
            client.sendall(b"GET http://wiki.local/ HTTP/1.1\r\nHost: wiki.local\r\n\r\n")
            assert client.recv(1)
        assert ended.wait(DEADLINE)
    assert proxy.audit("error", sandbox=sandbox.id)["reason"] == "client-gone"


def test_websocket_frames_pass_both_ways_after_a_decision(proxy: Proxy, sandbox: Sandbox, token: str) -> None:
    """RFC 6455: the upgrade is decided like any request, and carries the credential."""

    def switch(request: Request) -> Iterator[bytes]:
        yield (
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
        )
        yield b"\x81\x05hello"

    upgrade = (
        "GET http://wiki.local/{} HTTP/1.1\r\nHost: wiki.local\r\n"
        "Upgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    with Upstream(switch) as upstream:
        rules = policy(
            rule("wiki", "wiki.local", headers=["Authorization"], paths=["/ws"]),
            upstreams={"wiki.local:80": upstream.port},
        )
        proxy.attach(sandbox, rules)
        assert sandbox.exchange(upgrade.format("other").encode()).status == 403
        with sandbox.connect() as client, client.makefile("rb") as data:
            client.sendall(upgrade.format("ws").encode())
            assert data.readline() == b"HTTP/1.1 101 Switching Protocols\r\n"
            while data.readline() != b"\r\n":
                pass
            assert data.read(7) == b"\x81\x05hello"
            client.sendall(b"\x81\x85\0\0\0\0world")
            waiting.eventually(lambda: b"world" in _unmasked(upstream.received))
        assert upstream.requests[0].all("Authorization") == [f"Bearer {token}"]
        assert upstream.requests[0].all("Upgrade") == ["websocket"]


def _unmasked(received: bytearray) -> bytes:
    """The last frame: the proxy masks with a key of its own (RFC 6455 section 5.3)."""
    frame = bytes(received).rpartition(b"\r\n\r\n")[2]
    key, payload = frame[2:6], frame[6:]
    return bytes(byte ^ key[index % 4] for index, byte in enumerate(payload)) if len(key) == 4 else b""


@pytest.mark.parametrize("protocol", ["h2c", "TLS/1.0", "irc"])
def test_no_other_protocol_is_switched_to(proxy: Proxy, sandbox: Sandbox, protocol: str) -> None:
    """K5: a host that switches all the same gets nothing further."""

    def switch(request: Request) -> Iterator[bytes]:
        yield f"HTTP/1.1 101 Switching\r\nUpgrade: {protocol}\r\nConnection: Upgrade\r\n\r\n".encode()

    with Upstream(switch) as upstream:
        attach(proxy, sandbox, upstream)
        answer = sandbox.get("http://wiki.local/", f"Upgrade: {protocol}", "Connection: Upgrade")
        assert (answer.status, answer.reason) == (502, "upstream-response-malformed")
        assert upstream.requests[0].all("Upgrade") == []
