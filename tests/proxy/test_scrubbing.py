"""No secret comes back from a host, on any surface; and none goes out in what a client sends."""

from __future__ import annotations

import base64
import gzip
import http.client
import re
import socket
import struct
import threading
import time
import urllib.parse
import zlib
from collections.abc import Callable, Iterator

import brotli  # type: ignore[import-untyped]
import pytest
import zstandard

from tests.proxy.rig import DEADLINE, Proxy, Sandbox, policy, read_answer, read_to_end, rule
from tests.proxy.upstreams import Request, Upstream, ok
from tests.support import leaks, waiting

ENCODERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "deflate": zlib.compress,
    "br": brotli.compress,
    "zstd": zstandard.ZstdCompressor().compress,
    "gzip, br": lambda body: brotli.compress(gzip.compress(body)),
}
FORMS: dict[str, Callable[[bytes], bytes]] = {
    "plain": bytes,
    "percent": lambda s: "".join(f"%{b:02x}" for b in s).encode(),
    "hex": lambda s: s.hex().upper().encode(),
    "base64": base64.b64encode,
    "base64-in-the-middle": lambda s: base64.b64encode(b"x:" + s + b"\n"),
    "json": lambda s: "".join(f"\\u{b:04x}" for b in s).encode(),
}


@pytest.fixture
def wiki(proxy: Proxy, sandbox: Sandbox, upstream: Upstream) -> Sandbox:
    """wiki.local has the credential, open.local does not."""
    rules = policy(
        rule("wiki", "wiki.local", headers=["Authorization"]),
        rule("open", "open.local"),
        upstreams={"wiki.local:80": upstream.port, "open.local:80": upstream.port},
    )
    proxy.attach(sandbox, rules)
    return sandbox


def raw(sandbox: Sandbox, path: str = "/", method: str = "GET", host: str = "wiki.local") -> bytes:
    """All bytes of one answer."""
    return sandbox.everything(f"{method} http://{host}{path} HTTP/1.0\r\nHost: {host}\r\n\r\n".encode())


def clean(data: bytes, token: str) -> bool:
    return not leaks.in_bytes(data, leaks.forms(token.encode()))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("host", ["wiki.local", "open.local"])
def test_the_head_of_an_answer_has_no_secret(
    wiki: Sandbox, upstream: Upstream, token: str, form: str, host: str
) -> None:
    """K15: in the reason phrase, in any header, and in a header's name."""
    echo = FORMS[form](token.encode())
    upstream.handler = lambda request: [
        b"HTTP/1.1 200 got " + echo + b"\r\nLocation: http://a/?t=" + echo + b"&x=1\r\n"
        b"Set-Cookie: s=" + echo + b"; Path=/\r\nWWW-Authenticate: Basic realm=" + echo + b"\r\n"
        b"X-" + token.encode() + b": 1\r\nX-Kept: yes\r\nContent-Length: 2\r\n\r\nok"
    ]
    got = raw(wiki, host=host)
    assert b"200 got " in got
    assert b"***" in got
    assert b"&x=1\r\n" in got
    assert b"; Path=/\r\n" in got
    assert b"X-Kept: yes" in got
    assert echo not in got
    assert clean(got, token)


@pytest.mark.parametrize("form", FORMS)
def test_a_body_has_no_secret_and_its_length_stays(
    wiki: Sandbox, upstream: Upstream, token: str, form: str
) -> None:
    echo = FORMS[form](token.encode())
    body = b'{"before": 1, "t": "' + echo + b'", "after": 2}'
    upstream.handler = lambda request: [ok(body)]
    answer = wiki.get("http://wiki.local/")
    assert len(answer.body) == len(body) == int(answer.headers["content-length"])
    assert answer.body.startswith(b'{"before": 1, "t": "')
    assert answer.body.endswith(b'", "after": 2}')
    assert echo not in answer.body
    assert clean(answer.body, token)


def test_a_secret_in_pieces_is_a_secret(wiki: Sandbox, upstream: Upstream, token: str) -> None:
    """One byte in each chunk, one chunk in each packet."""

    def handler(request: Request) -> Iterator[bytes]:
        yield b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        for byte in f"begin {token} end".encode():
            yield b"1\r\n" + bytes((byte,)) + b"\r\n"
        yield b"0\r\nX-Trailer: " + token.encode() + b"\r\n\r\n"

    upstream.handler = handler
    answer = wiki.get("http://wiki.local/")
    assert answer.body == b"begin " + b"*" * len(token) + b" end"
    assert clean(raw(wiki), token)


@pytest.mark.parametrize("coding", ENCODERS)
@pytest.mark.parametrize("pieces", [False, True], ids=["whole", "bytes"])
def test_what_comes_encoded_is_decoded(
    wiki: Sandbox, upstream: Upstream, token: str, coding: str, pieces: bool
) -> None:
    """Although we ask for identity."""
    body = b"x" * 100_000 + f"begin {token} end".encode()
    encoded = ENCODERS[coding](body)
    head = ok(encoded, f"Content-Encoding: {coding}".encode())[: -len(encoded)]

    def handler(request: Request) -> Iterator[bytes]:
        yield head
        step = 1 if pieces else len(encoded)
        for start in range(0, len(encoded), step):
            yield encoded[start : start + step]

    upstream.handler = handler
    answer = wiki.get("http://wiki.local/", "Accept-Encoding: gzip, br")
    assert answer.body == b"x" * 100_000 + b"begin " + b"*" * len(token) + b" end"
    assert "content-encoding" not in answer.headers
    assert "content-length" not in answer.headers
    assert upstream.requests[0].all("Accept-Encoding") == ["identity"]
    # The connection stays usable.
    with wiki.connect() as client:
        for _ in range(2):
            client.sendall(b"GET http://wiki.local/ HTTP/1.1\r\nHost: wiki.local\r\n\r\n")
            assert read_answer(client).body == answer.body


def test_an_old_client_gets_a_decoded_body_until_the_connection_ends(
    wiki: Sandbox, upstream: Upstream, token: str
) -> None:
    encoded = gzip.compress(f"begin {token} end".encode())
    upstream.handler = lambda request: [ok(encoded, b"Content-Encoding: gzip")]
    got = wiki.everything(b"GET http://wiki.local/ HTTP/1.0\r\nHost: wiki.local\r\n\r\n")
    assert got.endswith(b"\r\n\r\nbegin " + b"*" * len(token) + b" end")


def test_an_encoding_that_nobody_knows_is_refused(
    wiki: Sandbox, upstream: Upstream, proxy: Proxy, token: str
) -> None:
    upstream.handler = lambda request: [ok(token.encode(), b"Content-Encoding: secretive")]
    with wiki.connect() as client:
        for _ in range(2):
            client.sendall(b"GET http://wiki.local/ HTTP/1.1\r\nHost: wiki.local\r\n\r\n")
            answer = read_answer(client)
            assert (answer.status, answer.reason) == (502, "upstream-encoding-unreadable")
    assert proxy.audit("error", sandbox=wiki.id)["reason"] == "upstream-encoding-unreadable"


def test_a_transfer_coding_that_is_not_undone_is_refused(
    wiki: Sandbox, upstream: Upstream, token: str
) -> None:
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\nConnection: close\r\n\r\n"
    upstream.handler = lambda request: [head + gzip.compress(token.encode())]
    assert b" 502 " in raw(wiki)


def test_damage_in_an_encoded_body_cuts_it_off(wiki: Sandbox, upstream: Upstream, proxy: Proxy) -> None:
    encoded = gzip.compress(bytes(200_000))
    damaged = encoded[:-8] + bytes(8)
    upstream.handler = lambda request: [ok(damaged, b"Content-Encoding: gzip")]
    with pytest.raises(http.client.IncompleteRead):
        wiki.get("http://wiki.local/")
    assert proxy.audit("error", sandbox=wiki.id)["reason"] == "upstream-encoding-unreadable"


@pytest.mark.parametrize("status", [204, 304])
def test_answers_without_a_body_stay_as_they_are(wiki: Sandbox, upstream: Upstream, status: int) -> None:
    upstream.handler = lambda request: [b"HTTP/1.1 %d X\r\nContent-Encoding: gzip\r\n\r\n" % status]
    with wiki.connect() as client:
        for _ in range(2):
            client.sendall(b"GET http://wiki.local/ HTTP/1.1\r\nHost: wiki.local\r\n\r\n")
            assert read_answer(client).status == status


def test_a_head_answer_keeps_its_fields(wiki: Sandbox, upstream: Upstream) -> None:
    upstream.handler = lambda request: [
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 70\r\n\r\n"
    ]
    answer = wiki.get("http://wiki.local/", method="HEAD")
    assert (answer.status, answer.headers["content-length"]) == (200, "70")


def test_a_host_without_credential_may_encode_as_it_likes(wiki: Sandbox, upstream: Upstream) -> None:
    """It never had a secret."""
    encoded = gzip.compress(b"x" * 1000)
    upstream.handler = lambda request: [ok(encoded, b"Content-Encoding: gzip")]
    answer = wiki.get("http://open.local/", "Accept-Encoding: gzip")
    assert (answer.body, answer.headers["content-encoding"]) == (encoded, "gzip")
    assert upstream.requests[0].all("Accept-Encoding") == ["gzip"]


def test_an_event_goes_on_when_it_comes(wiki: Sandbox, upstream: Upstream, token: str) -> None:
    """Server-sent events: the end of one is not kept for what could follow it."""
    gaps: list[float] = []

    def handler(request: Request) -> Iterator[bytes]:
        yield b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
        for _ in range(20):
            event = f"data: {token} wiki_abc\n\n".encode()
            gaps.append(time.monotonic())
            yield b"%x\r\n%s\r\n" % (len(event), event)
            assert arrived.acquire(timeout=DEADLINE)
        yield b"0\r\n\r\n"

    arrived = threading.Semaphore(0)
    upstream.handler = handler
    with wiki.connect() as client:
        client.sendall(b"GET http://wiki.local/ HTTP/1.1\r\nHost: wiki.local\r\n\r\n")
        response = http.client.HTTPResponse(client)
        response.begin()
        for number in range(20):
            line = response.readline() + response.readline()
            gaps[number] = time.monotonic() - gaps[number]
            assert line == b"data: " + b"*" * len(token) + b" wiki_abc\n\n"
            arrived.release()
        response.close()
    # The middle one: a busy machine may delay some.
    assert sorted(gaps)[10] < 0.05


# What clients send.


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("host", ["wiki.local", "open.local", "evil.local"])
@pytest.mark.parametrize("where", ["header", "target", "dropped", "basic"])
def test_a_request_with_a_secret_in_it_goes_nowhere(
    wiki: Sandbox, upstream: Upstream, proxy: Proxy, token: str, form: str, host: str, where: str
) -> None:
    """To no host, the entitled one included: the workload must not have it."""
    secret = FORMS[form](token.encode()).decode()
    pair = base64.b64encode(f"user:{secret}".encode()).decode()
    fields = {
        "header": [f"X-Data: a {secret} b"],
        "target": [],
        "dropped": [f"Authorization: Bearer {secret}"],
        "basic": [f"X-Data: Basic {pair}"],
    }[where]
    query = f"?t={urllib.parse.quote(secret, safe='%\\')}" if where == "target" else ""
    answer = wiki.get(f"http://{host}/{query}", *fields)
    if where == "basic" and form != "plain":
        # An encoding in an encoding: what is known of one is its forms, not forms of forms.
        return
    assert (answer.status, answer.reason) == (403, "secret-in-request")
    assert not upstream.accepted
    assert proxy.audit("deny", sandbox=wiki.id)["reason"] == "secret-in-request"
    assert clean(wiki.audit.read_bytes() + answer.body, token)


def test_a_path_cannot_hide_a_secret_in_dot_segments(wiki: Sandbox, upstream: Upstream, token: str) -> None:
    percent = "".join(f"%{ord(c):02X}" for c in token)
    for target in (f"/x/../{token}", f"/./{percent}/y"):
        assert wiki.get(f"http://open.local{target}").reason == "secret-in-request"
    assert not upstream.accepted


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
@pytest.mark.parametrize("form", FORMS)
def test_a_body_with_a_secret_in_it_is_stopped_before_any_of_it(
    wiki: Sandbox, upstream: Upstream, proxy: Proxy, token: str, form: str, chunked: bool
) -> None:
    """However it is cut into pieces: not even the beginning of the secret arrives."""
    secret = FORMS[form](token.encode())
    body = b"begin " + secret + b" end"
    head = "POST http://open.local/ HTTP/1.1\r\nHost: open.local\r\n"
    with wiki.connect() as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if chunked:
            client.sendall(f"{head}Transfer-Encoding: chunked\r\n\r\n".encode())
            for byte in body:
                client.sendall(b"1\r\n" + bytes((byte,)) + b"\r\n")
            client.sendall(b"0\r\n\r\n")
        else:
            client.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        answer = read_answer(client)
    assert (answer.status, answer.reason) == (403, "secret-in-request")
    event = proxy.audit("deny", sandbox=wiki.id)
    assert (event["reason"], event["host"]) == ("secret-in-request", "open.local")
    assert not upstream.requests
    waiting.eventually(lambda: b"open.local" in upstream.received)
    received = bytes(upstream.received).partition(b"\r\n\r\n")[2]
    if chunked:
        received = b"".join(re.findall(rb"[0-9a-f]+\r\n(.*?)\r\n", received, re.DOTALL))
    assert b"begin ".startswith(received[:6])
    assert secret[4:10] not in received
    assert clean(received, token)


def test_a_body_without_a_secret_arrives_as_it_was(wiki: Sandbox, upstream: Upstream) -> None:
    body = bytes(range(256)) * 1000 + b"wiki_wiki_wiki_"
    with wiki.connect() as client:
        head = f"POST http://wiki.local/ HTTP/1.1\r\nHost: wiki.local\r\nContent-Length: {len(body)}\r\n\r\n"
        client.sendall(head.encode() + body)
        assert read_answer(client).status == 200
    assert upstream.requests[0].body == body


# WebSockets.


SWITCH = (
    b"HTTP/1.1 101 Switching Protocols",
    b"Upgrade: websocket",
    b"Connection: Upgrade",
    b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n",
)


def frame(opcode: int, payload: bytes, *, masked: bool = False, last: bool = True) -> bytes:
    assert len(payload) < 126
    first = bytes((opcode | (0x80 if last else 0),))
    return first + bytes((len(payload) | (0x80 if masked else 0),)) + (bytes(4) if masked else b"") + payload


@pytest.fixture
def upgraded(wiki: Sandbox, upstream: Upstream) -> Iterator[Callable[[list[bytes]], socket.socket]]:
    """Opens a WebSocket on which the host sends these frames at once."""
    opened: list[socket.socket] = []

    def open_(frames: list[bytes]) -> socket.socket:
        upstream.handler = lambda request: [
            b"\r\n".join(SWITCH),
            *frames,
        ]
        client = wiki.connect()
        opened.append(client)
        client.sendall(
            b"GET http://wiki.local/ HTTP/1.1\r\nHost: wiki.local\r\nUpgrade: websocket\r\n"
            b"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            b"Sec-WebSocket-Extensions: permessage-deflate\r\n"
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += client.recv(1)
        assert b" 101 " in head
        return client

    yield open_
    for client in opened:
        client.close()


def read_frames(client: socket.socket, count: int) -> list[tuple[int, bytes]]:
    frames = []
    with client.makefile("rb") as stream:
        for _ in range(count):
            first, length = struct.unpack("BB", stream.read(2))
            frames.append((first, stream.read(length)))
    return frames


def test_frames_from_a_host_have_no_secret(
    upgraded: Callable[[list[bytes]], socket.socket], upstream: Upstream, token: str
) -> None:
    """Text, binary, a message in fragments that a ping interrupts, a pong, and the reason of a close."""
    secret = token.encode()
    stars = b"*" * len(secret)
    client = upgraded(
        [
            frame(1, b"a " + secret + b" b"),
            frame(2, b"\0" + secret + b"\0"),
            frame(9, secret),
            frame(1, b"c " + secret[:10], last=False),
            frame(10, secret),
            frame(0, secret[10:] + b" d"),
            frame(8, b"\x03\xe8" + secret),
        ]
    )
    got = read_frames(client, 7)
    assert got[:3] == [(0x81, b"a " + stars + b" b"), (0x82, b"\0" + stars + b"\0"), (0x89, stars)]
    assert b"".join(data for first, data in got[3:6] if first != 0x8A) == b"c " + stars + b" d"
    assert (0x8A, stars) in got
    assert got[6] == (0x88, b"\x03\xe8" + stars)
    assert upstream.requests[0].all("Sec-WebSocket-Extensions") == []


@pytest.mark.parametrize("opcode", [1, 2, 9, 10])
def test_a_frame_with_a_secret_ends_the_connection(
    upgraded: Callable[[list[bytes]], socket.socket],
    wiki: Sandbox,
    upstream: Upstream,
    proxy: Proxy,
    token: str,
    opcode: int,
) -> None:
    client = upgraded([])
    client.sendall(frame(1, b"fine", masked=True) + frame(opcode, token.encode(), masked=True))
    read_to_end(client)
    assert proxy.audit("deny", sandbox=wiki.id)["reason"] == "secret-in-request"
    assert upstream.received.count(token[5:].encode()) == 1
