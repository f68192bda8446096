"""HTTP/2 with clients: every stream is decided by itself, and goes on as HTTP/1.1 or not at all."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h2.settings
import pytest
from h2.errors import ErrorCodes

from nsharness_proxy import codec
from tests.proxy.h2client import Http2, get, through_tunnel
from tests.proxy.rig import DEADLINE, Proxy, Sandbox, policy, rule, tunnel
from tests.proxy.tlshost import Authority
from tests.proxy.upstreams import Request, Upstream, ok
from tests.support import waiting

HOST = "secure.local"
MEGABYTE = 1 << 20


class Host:
    """secure.local, whose answers a test may change: it has the credential under /ok/ only."""

    def __init__(self, server: Upstream) -> None:
        self.server = server
        self.released = threading.Event()
        self.pieces = 0

    def lines(self) -> list[str]:
        return [request.line for request in self.server.requests]


@pytest.fixture
def host(proxy: Proxy, sandbox: Sandbox, tmp_path: Path) -> Iterator[Host]:
    made: list[Host] = []

    def answers(request: Request) -> Iterator[bytes]:
        yield from _answers(request, made[0])

    authority = Authority(tmp_path)
    with Upstream(answers, tls=authority.server(HOST), keep_body=True) as server:
        made.append(Host(server))
        rules = policy(
            rule("secure", HOST, headers=["Authorization"], paths=["/ok/**"]),
            upstreams={f"{HOST}:443": server.port},
        )
        proxy.attach(sandbox, rules, upstream_ca=authority.pem)
        yield made[0]
        made[0].released.set()


def _answers(request: Request, host: Host) -> Iterator[bytes]:
    path = request.line.split()[1]
    if path == "/ok/held":
        assert host.released.wait(10)
        yield ok(b"held")
    elif path == "/ok/echo":
        echo = "\n".join(f"{name}: {value}" for name, value in request.headers).encode()
        yield ok(
            echo, b"X-Echo: " + request.all("Authorization")[0].encode(), b"Connection: X-Gone", b"X-Gone: 1"
        )
    elif path == "/ok/hints":
        token = request.all("Authorization")[0].encode()
        yield b"HTTP/1.1 103 Early Hints\r\nLink: <" + token + b">\r\n\r\n"
        yield b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-T\r\n\r\n"
        yield b"3\r\nend\r\n0\r\nX-T: " + token + b"\r\n\r\n"
    elif path == "/ok/endless":
        yield b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        while not host.released.is_set():
            host.pieces += 1
            yield b"10000\r\n%s\r\n" % bytes(65536)
    elif path == "/ok/cut":
        yield b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\npart"
        raise OSError
    else:
        yield ok(request.body or b"ok")


@pytest.fixture
def client(proxy: Proxy, sandbox: Sandbox, host: Host) -> Iterator[Http2]:
    """Speaks nothing else."""
    with through_tunnel(proxy, sandbox, f"{HOST}:443") as made:
        yield made


@pytest.mark.parametrize(("engine", "spoken"), [("mitmproxy", "h2"), ("fast", "http/1.1")])
def test_who_speaks_both_is_offered_what_the_engine_speaks(
    proxy: Proxy, sandbox: Sandbox, engine: str, spoken: str
) -> None:
    proxy.attach(sandbox, policy(rule("secure", HOST, headers=["Authorization"]), engine=engine))
    context = proxy.trust()
    context.set_alpn_protocols(["h2", "http/1.1"])
    with sandbox.connect() as client:
        assert tunnel(client, f"{HOST}:443").status == 200
        with context.wrap_socket(client, server_hostname=HOST) as secured:
            assert secured.selected_alpn_protocol() == spoken


def test_every_stream_is_decided_by_itself(
    proxy: Proxy, sandbox: Sandbox, client: Http2, host: Host, token: str
) -> None:
    held = client.send(get(HOST, "/ok/held"))
    assert client.ask(get(HOST, "/ok/a?b=c")).body == b"ok"
    refused = client.ask(get(HOST, "/other"))
    assert (refused.status, refused.reason) == (403, "path-not-allowed")
    host.released.set()
    (stream,) = client.finish(held)
    assert bytes(stream.body) == b"held"
    assert sorted(host.lines()) == ["GET /ok/a?b=c HTTP/1.1", "GET /ok/held HTTP/1.1"]
    for request in host.server.requests:
        assert request.all("Authorization") == [f"Bearer {token}"]
        assert request.all("Host") == [HOST]
    assert len([e for e in proxy.events if e.get("action") == "inject"]) == 2
    # One that had been free again was used, one that was in use was not.
    assert host.server.accepted == 2


def test_a_body_of_unknown_length_is_chunked_and_the_next_request_is_whole(client: Http2, host: Host) -> None:
    """Stock mitmproxy sends such a body without framing: its bytes are the next request."""
    smuggled = b"GET /ok/smuggled HTTP/1.1\r\nHost: secure.local\r\n\r\n"
    assert client.ask(get(HOST, "/ok/put", method="PUT"), smuggled).body == smuggled
    assert client.ask(get(HOST, "/ok/sized", ("content-length", "4"), method="PUT"), b"body").body == b"body"
    assert client.ask(get(HOST, "/ok/empty", method="PUT"), b"").body == b"ok"
    assert client.ask(get(HOST, "/ok/next")).body == b"ok"
    assert host.lines() == [
        f"{m} /ok/{p} HTTP/1.1"
        for m, p in (("PUT", "put"), ("PUT", "sized"), ("PUT", "empty"), ("GET", "next"))
    ]
    first, sized, *_ = host.server.requests
    assert (first.all("Transfer-Encoding"), first.all("Content-Length")) == (["chunked"], [])
    assert (sized.all("Transfer-Encoding"), sized.all("Content-Length")) == ([], ["4"])
    assert host.server.accepted == 1


def test_answers_are_scrubbed_and_have_nothing_of_the_connection(
    client: Http2, host: Host, token: str
) -> None:
    echo = client.send(
        get(
            HOST,
            "/ok/echo",
            ("authorization", "mine"),
            ("cookie", "a=1"),
            ("cookie", "b=2"),
            ("te", "trailers"),
        )
    )
    hints = client.send(get(HOST, "/ok/hints"))
    cut = client.send(get(HOST, "/ok/cut"))
    answered, hinted, broken = client.finish(echo, hints, cut)
    assert not {"connection", "x-gone", "transfer-encoding"} & dict(answered.fields).keys()
    assert b"Authorization: " in answered.body
    assert b"mine" not in answered.body
    assert b"te:" not in answered.body.lower()
    for stream in (answered, hinted, broken):
        assert token not in repr(stream)
    assert (bytes(hinted.body), hinted.ended) == (b"end", True)
    assert (bytes(broken.body), broken.ended) == (b"part", False)
    assert broken.reset == ErrorCodes.INTERNAL_ERROR


REFUSED: dict[str, tuple[int, list[tuple[str, str]]]] = {
    "host differs": (421, get(HOST, "/ok/", ("host", "other.local"))),
    "authority differs": (421, get("other.local", "/ok/")),
    "port differs": (421, get(f"{HOST}:444", "/ok/")),
    "userinfo": (400, get(f"a@{HOST}", "/ok/")),
    "no authority": (400, [(":method", "GET"), (":scheme", "https"), (":path", "/ok/")]),
    "plain http": (421, [(":method", "GET"), (":scheme", "http"), (":authority", HOST), (":path", "/ok/")]),
    "connect": (400, [(":method", "CONNECT"), (":authority", HOST)]),
    "extended connect": (400, [(":protocol", "websocket"), *get(HOST, "/ok/", method="CONNECT")]),
    "second path": (400, [*get(HOST, "/ok/"), (":path", "/other")]),
    "pseudo-header behind a field": (400, [("a", "b"), *get(HOST, "/ok/")]),
    "request line in the path": (400, get(HOST, "/ok/ HTTP/1.1\r\nX: y\r\n\r\nGET /other")),
    "space in the path": (400, get(HOST, "/ok/ HTTP/1.1")),
    "absolute path": (400, get(HOST, f"https://{HOST}/ok/")),
    "dot segments": (403, get(HOST, "/ok/../other")),
    "encoded slash": (400, get(HOST, "/ok%2f..%2fother")),
    "method with a space": (400, get(HOST, "/ok/", method="GET /other")),
    "upper case": (400, get(HOST, "/ok/", ("X-Upper", "1"))),
    "line break in a value": (400, get(HOST, "/ok/", ("a", "b\r\nX-C: d"))),
    "NUL in a value": (400, get(HOST, "/ok/", ("a", "b\0"))),
    "colon in a name": (400, get(HOST, "/ok/", ("a:b", "c"))),
    "transfer-encoding": (400, get(HOST, "/ok/", ("transfer-encoding", "chunked"))),
    "connection": (400, get(HOST, "/ok/", ("connection", "authorization"))),
    "upgrade": (400, get(HOST, "/ok/", ("upgrade", "websocket"))),
    "te": (400, get(HOST, "/ok/", ("te", "chunked"))),
    "misspelled length": (400, get(HOST, "/ok/", ("content_length", "5"))),
    "credential in the query": (403, get(HOST, "/ok/?access_token=mine")),
    "method override": (403, get(HOST, "/ok/", ("x-http-method-override", "DELETE"))),
}


def test_what_http1_could_not_say_or_names_another_host_is_refused_alone(client: Http2, host: Host) -> None:
    """One stream each, in one connection, which goes on."""
    numbers = {name: client.send(fields) for name, (_, fields) in REFUSED.items()}
    client.finish(*numbers.values())
    got = {name: dict(client.streams[number].fields).get(":status") for name, number in numbers.items()}
    assert got == {name: str(status) for name, (status, _) in REFUSED.items()}
    assert host.lines() == []
    assert client.ask(get(HOST, "/ok/still")).status == 200


def test_the_length_of_a_body_must_be_what_was_said(proxy: Proxy, sandbox: Sandbox, host: Host) -> None:
    """The rest, or what is too much, would be read as another request."""
    for length, body in (("4", b"too long"), ("20", b"too short"), ("4, 4", b"body"), ("-1", b"body")):
        with through_tunnel(proxy, sandbox, f"{HOST}:443") as client:
            number = client.send(get(HOST, "/ok/a", ("content-length", length), method="PUT"), end=False)
            client.send_body(number, body)
            client.finish(number)
            stream = client.streams[number]
            assert dict(stream.fields).get(":status") in (None, "400"), length
    assert host.lines() == []


def _end_of(client: Http2) -> int | None:
    client.drain()
    return client.goaway


def _floods(client: Http2) -> dict[str, Any]:
    def resets() -> None:
        for _ in range(500):
            client.codec.reset_stream(client.send(get(HOST, "/ok/held"), flush=False))

    def pings() -> None:
        for _ in range(2000):
            client.codec.ping(bytes(8))

    def settings() -> None:
        for number in range(500):
            client.codec.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 65535 - number})

    def empty() -> None:
        number = client.send(get(HOST, "/ok/held", method="PUT"), end=False, flush=False)
        for _ in range(2000):
            client.codec.send_data(number, b"")

    def padding() -> None:
        number = client.send(get(HOST, "/ok/held", method="PUT"), end=False, flush=False)
        for _ in range(2000):
            client.codec.send_data(number, b"", pad_length=0)

    return {each.__name__: each for each in (resets, pings, settings, empty, padding)}


@pytest.mark.parametrize("flood", ["resets", "pings", "settings", "empty", "padding"])
def test_a_flood_ends_the_connection(proxy: Proxy, sandbox: Sandbox, host: Host, flood: str) -> None:
    """CVE-2023-44487, CVE-2019-9512, 9515, 9518. Of requests that were reset at once few reached the host."""
    with through_tunnel(proxy, sandbox, f"{HOST}:443") as client:
        _floods(client)[flood]()
        client.flush()
        assert _end_of(client) in (ErrorCodes.ENHANCE_YOUR_CALM, None)
        assert client.closed
    assert len(host.lines()) <= codec.MAX_STREAMS
    assert proxy.audit("deny", sandbox=sandbox.id, reason="malformed-request")


def test_a_head_is_bounded_however_it_is_cut(proxy: Proxy, sandbox: Sandbox, host: Host) -> None:
    """Also as a CONTINUATION flood, which never ends (CVE-2024-24549)."""
    with through_tunnel(proxy, sandbox, f"{HOST}:443") as client:
        client.send(get(HOST, "/ok/", *((f"x-{number}", "a" * 1000) for number in range(100))))
        client.drain()
    with through_tunnel(proxy, sandbox, f"{HOST}:443") as client:
        client.sock.sendall(b"\0\0\0\x01\0\0\0\0\x01" + b"\0\0\0\x09\0\0\0\0\x01" * 100)
        client.drain()
    assert host.lines() == []


def test_streams_beyond_the_bound_are_refused(client: Http2, host: Host) -> None:
    for _ in range(codec.MAX_STREAMS + 1):
        client.codec.remote_settings[h2.settings.SettingCodes.MAX_CONCURRENT_STREAMS] = 1000
        client.codec.remote_settings.acknowledge()
        client.send(get(HOST, "/ok/held"), flush=False)
    client.flush()
    client.drain()
    assert client.closed
    assert len(host.lines()) <= codec.MAX_STREAMS


def test_a_stalled_stream_holds_up_its_own_host_and_nothing_else(
    proxy: Proxy, sandbox: Sandbox, host: Host
) -> None:
    """Its answer waits at the host, not in memory; the other stream, with a window of its own, goes on."""
    wide = {h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 1 << 20}
    with through_tunnel(proxy, sandbox, f"{HOST}:443", windows=False, settings=wide) as client:
        client.codec.increment_flow_control_window(64 * MEGABYTE)
        client.flush()
        before = proxy.memory()
        stalled = client.send(get(HOST, "/ok/endless"))
        client.until(lambda: len(client.streams[stalled].body) == 1 << 20)
        seen, still = 0, 0
        while still < 10:
            assert client.ask(get(HOST, "/ok/a")).status == 200
            still = still + 1 if host.pieces == seen else 0
            seen = host.pieces
            assert seen < 512, "the host goes on"
        assert proxy.memory() - before < 16 * MEGABYTE
        host.released.set()


@pytest.mark.slow
def test_a_host_that_takes_nothing_holds_up_its_own_stream_and_nothing_else(
    proxy: Proxy, new_sandbox: Callable[[], Sandbox], tmp_path: Path
) -> None:
    """The window of the upload stays closed: its body is not in memory. Giving it up frees its host."""
    authority, sandbox = Authority(tmp_path), new_sandbox()
    with (
        socket.create_server(("127.0.0.1", 0)) as deaf,
        Upstream(tls=authority.server(HOST)) as server,
    ):
        # What the kernel keeps is not the point.
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        rules = policy(
            rule("both", HOST, "other.local", inspect=True),
            upstreams={f"{HOST}:443": server.port, "other.local:443": deaf.getsockname()[1]},
        )
        proxy.attach(sandbox, rules, upstream_ca=authority.pem)
        with through_tunnel(proxy, sandbox, f"{HOST}:443") as client:
            assert client.ask(get(HOST)).status == 200
        context = authority.server("other.local")
        with through_tunnel(proxy, sandbox, "other.local:443") as client:
            upload = client.send(get("other.local", method="PUT"), end=False)
            accepted, _ = deaf.accept()
            with context.wrap_socket(accepted, server_side=True) as host:
                before, sent = proxy.memory(), 0
                # It is full when a whole round trip through the proxy has opened no window.
                while room := _room_after_a_round_trip(client, upload):
                    sent += room
                    client.send_body(upload, bytes(room), end=False)
                    assert sent < 64 * MEGABYTE
                assert proxy.memory() - before < 4 * MEGABYTE
                client.codec.reset_stream(upload, ErrorCodes.CANCEL)
                client.flush()
                assert proxy.audit("error", sandbox=sandbox.id, reason="client-gone")
                host.settimeout(DEADLINE)
                with contextlib.suppress(OSError):
                    while host.recv(1 << 16):
                        pass


def _room_after_a_round_trip(client: Http2, number: int) -> int:
    for _ in range(5):
        if room := client.codec.local_flow_control_window(number):
            return room
        assert client.ask(get("elsewhere.local")).status == 421
    return 0


def test_a_client_that_waits_to_be_told_is_told(client: Http2, host: Host) -> None:
    """RFC 9110 section 10.1.1."""
    number = client.send(get(HOST, "/ok/put", ("expect", "100-continue"), method="PUT"), end=False)
    client.until(lambda: bool(client.streams[number].interim))
    assert client.streams[number].interim == [[(":status", "100")]]
    client.send_body(number, b"body")
    client.finish(number)
    assert bytes(client.streams[number].body) == b"body"
    refused = client.send(get(HOST, "/other", ("expect", "100-continue"), method="PUT"), end=False)
    (stream,) = client.finish(refused)
    assert (stream.answer.status, stream.interim) == (403, [])


def test_large_bodies_pass_in_both_directions(client: Http2) -> None:
    body = bytes(range(256)) * (4 * MEGABYTE // 256)
    assert client.ask(get(HOST, "/ok/big", method="PUT"), body).body == body


def test_a_reset_ends_the_request_at_its_host_too(
    proxy: Proxy, sandbox: Sandbox, client: Http2, host: Host
) -> None:
    number = client.send(get(HOST, "/ok/endless"))
    client.until(lambda: bool(client.streams[number].body))
    client.codec.reset_stream(number, ErrorCodes.CANCEL)
    client.flush()
    waiting.eventually(lambda: not host.server._open)
    assert proxy.audit("error", sandbox=sandbox.id, reason="client-gone")
    assert client.ask(get(HOST, "/ok/next")).status == 200
