"""Where one message ends and the next begins: client, proxy and host agree, or the connection ends."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.proxy.rig import Proxy, Sandbox, policy, read_answer, read_to_end, rule, tunnel
from tests.proxy.tlshost import Authority
from tests.proxy.upstreams import Request, Upstream, ok

HEAD = b"POST http://wiki.local/ HTTP/1.1\r\nHost: wiki.local\r\n"
SMUGGLED = b"GET http://wiki.local/smuggled HTTP/1.1\r\nHost: wiki.local\r\n\r\n"


@pytest.fixture
def wiki(proxy: Proxy, sandbox: Sandbox, upstream: Upstream) -> Sandbox:
    rules = policy(
        rule("wiki", "wiki.local", headers=["Authorization"]), upstreams={"wiki.local:80": upstream.port}
    )
    proxy.attach(sandbox, rules)
    return sandbox


AMBIGUOUS = {
    "length-and-chunked": b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "two-lengths": b"Content-Length: 4\r\nContent-Length: 5\r\n\r\nabcd",
    "equal-lengths": b"Content-Length: 4\r\nContent-Length: 4\r\n\r\nabcd",
    "length-list": b"Content-Length: 4, 4\r\n\r\nabcd",
    "length-sign": b"Content-Length: +4\r\n\r\nabcd",
    "length-hex": b"Content-Length: 0x4\r\n\r\nabcd",
    "length-space": b"Content-Length: 4 4\r\n\r\nabcd",
    "length-underscore": b"Content-Length: 1_0\r\n\r\nabcd",
    "length-empty": b"Content-Length:\r\n\r\nabcd",
    "space-before-colon": b"Content-Length : 4\r\n\r\nabcd",
    "chunked-twice": b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunked-not-last": b"Transfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n",
    "chunked-list": b"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
    "chunked-quoted": b'Transfer-Encoding: "chunked"\r\n\r\n0\r\n\r\n',
    "chunked-vtab": b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
    "identity": b"Transfer-Encoding: identity\r\nContent-Length: 4\r\n\r\nabcd",
    "unknown-coding": b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "folded": b"X-A: a\r\n b\r\n\r\n",
    "folded-framing": b"Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n",
    "bare-lf": b"X-A: a\nX-B: b\r\n\r\n",
    "bare-lf-end": b"X-A: a\r\n\n",
    "bare-cr": b"X-A: a\rX-B: b\r\n\r\n",
    "nul": b"X-A: a\0b\r\n\r\n",
    "no-colon": b"X-A\r\n\r\n",
    "no-name": b": a\r\n\r\n",
    "name-with-space": b"X A: a\r\n\r\n",
    "name-beyond-ascii": b"X-\xc3\xa4: a\r\n\r\n",
}


@pytest.mark.parametrize("rest", AMBIGUOUS.values(), ids=AMBIGUOUS.keys())
def test_an_ambiguous_head_is_answered_400_and_ends_the_connection(
    wiki: Sandbox, upstream: Upstream, token: str, rest: bytes
) -> None:
    """K6"""
    data = wiki.everything(HEAD + rest + SMUGGLED)
    assert data.startswith(b"HTTP/1.1 400 ")
    assert data.count(b"HTTP/1.1 ") == 1
    assert b"x-nsharness-reason: malformed-request" in data
    assert not upstream.accepted


@pytest.mark.parametrize(
    "line",
    [
        b"GET  http://wiki.local/ HTTP/1.1 x",
        b"GET http://wiki.local/ HTTP/2.0",
        b"GET http://wiki.local/ HTTP/1.2",
        b"GET http://wiki.local/ HTTP/0.9",
        b"GET http://wiki.local/",
        b"GET http://wiki.local/ http/1.1",
        b"G\xc3T http://wiki.local/ HTTP/1.1",
        b"PRI * HTTP/2.0",
        b"hello",
    ],
)
def test_a_request_line_that_is_none_of_http1_is_refused(
    wiki: Sandbox, upstream: Upstream, line: bytes
) -> None:
    """K6: HTTP/2 with prior knowledge is among them."""
    data = wiki.everything(line + b"\r\nHost: wiki.local\r\n\r\n" + SMUGGLED)
    assert data.startswith(b"HTTP/1.1 400 ")
    assert data.count(b"HTTP/1.1 ") == 1
    assert not upstream.accepted


@pytest.mark.parametrize(
    "chunks",
    [
        b"g\r\n",
        b"-1\r\n",
        b"0x4\r\nabcd\r\n",
        b"4\r\nabcdX",
        b"4 \r\r\nabcd\r\n",
        b"4\nabcd\n",
        b"5\r\nabcd\r\n0",
    ],
)
def test_a_bad_chunk_ends_the_connection_and_what_follows_is_no_request(
    wiki: Sandbox, upstream: Upstream, chunks: bytes
) -> None:
    """K6"""
    wiki.everything(HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + chunks + b"\r\n\r\n" + SMUGGLED)
    assert not [request for request in upstream.requests if "smuggled" in request.line]


def test_a_request_in_a_body_is_a_body(wiki: Sandbox, upstream: Upstream, token: str) -> None:
    """K6: for every framing that passes."""
    chunked = b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n" % (len(SMUGGLED), SMUGGLED)
    for framed in (b"Content-Length: %d\r\n\r\n%s" % (len(SMUGGLED), SMUGGLED), chunked):
        with wiki.connect() as client:
            client.sendall(HEAD + framed)
            assert read_answer(client).status == 200
    assert [request.body for request in upstream.requests] == [SMUGGLED, SMUGGLED]


def test_a_get_with_a_body_keeps_its_framing(wiki: Sandbox, upstream: Upstream) -> None:
    with wiki.connect() as client:
        client.sendall(b"GET http://wiki.local/ HTTP/1.1\r\nHost: wiki.local\r\nContent-Length: 2\r\n\r\nhi")
        assert read_answer(client).status == 200
        client.sendall(b"GET http://wiki.local/2 HTTP/1.1\r\nHost: wiki.local\r\n\r\n")
        assert read_answer(client).status == 200
    assert [request.body for request in upstream.requests] == [b"hi", b""]


def test_trailers_do_not_go_on(wiki: Sandbox, upstream: Upstream) -> None:
    """They could be taken for headers; and the engine cannot pass them."""
    with wiki.connect() as client:
        client.sendall(
            HEAD + b"Transfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\nAuthorization: Bearer mine\r\n\r\n"
        )
        assert read_answer(client).status == 200
        client.sendall(b"GET http://wiki.local/2 HTTP/1.1\r\nHost: wiki.local\r\n\r\n")
        assert read_answer(client).status == 200
    assert b"mine" not in upstream.received
    assert upstream.requests[0].body == b"body"


def test_requests_sent_ahead_are_served_in_their_order(wiki: Sandbox, upstream: Upstream) -> None:
    upstream.handler = lambda request: [ok(request.line.encode())]
    with wiki.connect() as client:
        client.sendall(
            b"".join(b"GET http://wiki.local/%d HTTP/1.1\r\nHost: wiki.local\r\n\r\n" % n for n in range(5))
        )
        data = b""
        while data.count(b"GET /") < 5:
            data += client.recv(1 << 16)
    assert [request.line for request in upstream.requests] == [f"GET /{n} HTTP/1.1" for n in range(5)]


def test_an_empty_line_before_a_request_is_ignored(wiki: Sandbox) -> None:
    """RFC 9112 section 2.2"""
    assert wiki.exchange(b"\r\n\r\n" + SMUGGLED).status == 200


def test_a_head_without_end_is_cut_off(wiki: Sandbox, upstream: Upstream) -> None:
    with wiki.connect() as client:
        client.sendall(b"GET http://wiki.local/ HTTP/1.1\r\nHost: wiki.local\r\nX: " + b"a" * (1 << 17))
        assert read_answer(client).status == 431
    assert not upstream.accepted


def test_an_upload_of_unknown_length_is_framed_inside_tls(
    proxy: Proxy, sandbox: Sandbox, tmp_path: Path
) -> None:
    """What is in it would else be the next request. The same in HTTP/2: see test_http2."""
    authority = Authority(tmp_path)
    with Upstream(tls=authority.server("secure.local")) as secure:
        rules = policy(
            rule("secure", "secure.local", headers=["Authorization"]),
            upstreams={"secure.local:443": secure.port},
        )
        proxy.attach(sandbox, rules, upstream_ca=authority.pem)
        context = proxy.trust()
        context.set_alpn_protocols(["http/1.1"])
        with sandbox.connect() as client:
            assert tunnel(client, "secure.local:443").status == 200
            with context.wrap_socket(client, server_hostname="secure.local") as secured:
                assert secured.selected_alpn_protocol() == "http/1.1"
                secured.sendall(
                    b"PUT /a HTTP/1.1\r\nHost: secure.local\r\nTransfer-Encoding: chunked\r\n\r\n"
                )
                body = b"GET /smuggled HTTP/1.1\r\nHost: secure.local\r\n\r\n"
                secured.sendall(b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body))
                assert read_answer(secured).status == 200
                secured.sendall(b"GET /b HTTP/1.1\r\nHost: secure.local\r\n\r\n")
                assert read_answer(secured).status == 200
        assert [request.line for request in secure.requests] == ["PUT /a HTTP/1.1", "GET /b HTTP/1.1"]
        assert secure.requests[0].body == body
        assert secure.accepted == 1


@pytest.mark.parametrize("protocols", [["http/1.1"], ["h3"], []])
def test_a_client_that_did_not_agree_on_http2_gets_none(
    proxy: Proxy, sandbox: Sandbox, tmp_path: Path, protocols: list[str]
) -> None:
    authority = Authority(tmp_path)
    with Upstream(tls=authority.server("secure.local")) as secure:
        proxy.attach(
            sandbox,
            policy(rule("s", "secure.local", inspect=True), upstreams={"secure.local:443": secure.port}),
            upstream_ca=authority.pem,
        )
        context = proxy.trust()
        if protocols:
            context.set_alpn_protocols(protocols)
        with sandbox.connect() as client:
            tunnel(client, "secure.local:443")
            with context.wrap_socket(client, server_hostname="secure.local") as secured:
                assert secured.selected_alpn_protocol() in (None, "http/1.1")
                secured.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
                data = b""
                try:
                    while piece := secured.recv(1 << 16):
                        data += piece
                except (ssl.SSLEOFError, ConnectionError):
                    pass
        assert data.startswith(b"HTTP/1.1 400 ")
        assert not secure.accepted


# Answers


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 abc OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"a" * (1 << 17),
    ],
)
def test_an_answer_with_two_readings_is_replaced_by_our_own(
    wiki: Sandbox, upstream: Upstream, token: str, answer: bytes
) -> None:
    """The engine's own page would quote it, and with it whatever the host echoes."""
    upstream.handler = lambda request: [answer.replace(b"no colon", request.all("Authorization")[0].encode())]
    got = wiki.get("http://wiki.local/")
    assert (got.status, got.reason) == (502, "upstream-response-malformed")
    assert b"mitmproxy" not in got.body + repr(got.headers).encode()
    assert token.encode() not in got.body


def test_a_host_that_closes_without_an_answer_is_told_as_such(wiki: Sandbox, upstream: Upstream) -> None:
    def close(request: Request) -> Iterator[bytes]:
        raise OSError

    upstream.handler = close
    got = wiki.get("http://wiki.local/")
    assert (got.status, got.reason) == (502, "upstream-closed")


def test_interim_answers_are_not_taken_for_the_answer(wiki: Sandbox, upstream: Upstream) -> None:
    """RFC 9110 section 15.2: 103 Early Hints and others come before it."""
    upstream.handler = lambda request: [
        b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 102 Processing\r\n\r\nHTTP/1.",
        ok(b"final")[7:],
    ]
    with wiki.connect() as client:
        for _ in range(2):
            client.sendall(b"GET http://wiki.local/ HTTP/1.1\r\nHost: wiki.local\r\n\r\n")
            answer = read_answer(client)
            assert (answer.status, answer.body) == (200, b"final")


def test_an_answer_with_trailers_arrives(wiki: Sandbox, upstream: Upstream) -> None:
    upstream.handler = lambda request: [
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\nX-Check: 1\r\n\r\n"
    ]
    with wiki.connect() as client:
        for _ in range(2):
            client.sendall(b"GET http://wiki.local/ HTTP/1.1\r\nHost: wiki.local\r\n\r\n")
            assert read_answer(client).body == b"body"


def test_an_answer_that_ends_with_the_connection_ends_ours(wiki: Sandbox, upstream: Upstream) -> None:
    def until_closed(request: Request) -> Iterator[bytes]:
        yield b"HTTP/1.1 200 OK\r\n\r\nsome"
        raise OSError

    upstream.handler = until_closed
    data = wiki.everything(b"GET http://wiki.local/ HTTP/1.1\r\nHost: wiki.local\r\n\r\n")
    assert data.endswith(b"\r\n\r\nsome")


def test_an_answer_before_the_body_has_come_arrives(wiki: Sandbox) -> None:
    """A host that refuses an upload does so early."""
    with wiki.connect() as client:
        client.sendall(
            b"POST http://evil.local/ HTTP/1.1\r\nHost: evil.local\r\nContent-Length: 9\r\n\r\nabc"
        )
        assert read_answer(client).status == 403
        client.sendall(b"defghi")
        assert read_to_end(client) == b""
