"""Heads of HTTP/2 requests: what is taken means the same in HTTP/1.1, and anything else is refused."""

from __future__ import annotations

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsharness.policy.headers import HeaderError
from nsharness.policy.http2 import request_head

PSEUDO = ((b":method", b"GET"), (b":scheme", b"https"), (b":authority", b"a.local"), (b":path", b"/a?b=c"))
# Mostly what is in heads, with everything in between that could end one.
ODD = st.sampled_from([b"\r\n", b"\n", b"\r", b" ", b"\t", b"\0", b":", b"\x7f", b"\xff", b"#", b"A", b"_"])
PLAIN = st.sampled_from(
    [b"a", b"b-c", b"1", b"/", b"?", b"%20", b"host", b"content-length", b"chunked", b"5"]
)
TEXT = st.lists(st.one_of(PLAIN, PLAIN, PLAIN, ODD), max_size=4).map(b"".join)
NAME = st.one_of(
    TEXT, st.sampled_from([b"cookie", b"content-length", b"content_length", b"te", b"host", b":path"])
)


@given(
    method=st.one_of(st.just(b"PUT"), TEXT),
    path=st.one_of(st.just(b"/a"), TEXT.map(lambda text: b"/" + text)),
    fields=st.lists(st.tuples(NAME, TEXT), max_size=4),
    ended=st.booleans(),
)
def test_a_head_that_is_taken_is_one_head_in_http1(
    method: bytes, path: bytes, fields: list[tuple[bytes, bytes]], ended: bool
) -> None:
    """A reader that is not ours finds the same request in what is sent, and its end where we see it."""
    pseudo = ((b":method", method), (b":scheme", b"https"), (b":authority", b"a.local"), (b":path", path))
    try:
        head = request_head((*pseudo, *fields), ended=ended)
    except HeaderError:
        return
    kept = [(name, value) for name, value in head.fields if name != b"host"]
    lines = [b" ".join((head.method, head.path, b"HTTP/1.1")), b"host: a.local"]
    reader = h11.Connection(h11.SERVER)
    reader.receive_data(b"\r\n".join([*lines, *(name + b": " + value for name, value in kept), b"", b""]))
    try:
        request = reader.next_event()
    except h11.RemoteProtocolError:
        # It is stricter about lengths, which the rest of the program looks at once more.
        assert any(name == b"content-length" for name, _ in kept)
        return
    assert isinstance(request, h11.Request)
    assert (request.method, request.target) == (method, path)
    # Two cookies that are both empty are joined to one that ends in a space, which is not part of it.
    assert list(request.headers) == [(b"host", b"a.local"), *((n, v.rstrip(b" ")) for n, v in kept)]
    chunked = (b"transfer-encoding", b"chunked") in kept
    assert chunked == (not ended and not any(name == b"content-length" for name, _ in kept))


def test_an_ordinary_head_is_taken() -> None:
    """That the test above is about something."""
    cookies = ((b"cookie", b"a=1"), (b"x-a", b"b c"), (b"cookie", b"b=2"), (b"te", b"trailers"))
    head = request_head((*PSEUDO, *cookies), ended=True)
    assert (head.method, head.scheme, head.authority, head.path) == (b"GET", b"https", b"a.local", b"/a?b=c")
    assert head.fields == ((b"x-a", b"b c"), (b"te", b"trailers"), (b"cookie", b"a=1; b=2"))
    assert request_head(PSEUDO, ended=False).fields == ((b"transfer-encoding", b"chunked"),)


@pytest.mark.parametrize(
    ("fields", "ended"),
    [
        (PSEUDO[1:], True),
        (PSEUDO[:3], True),
        ((*PSEUDO, PSEUDO[3]), True),
        (((b"a", b"b"), *PSEUDO), True),
        ((*PSEUDO, (b":status", b"200")), True),
        (((b":protocol", b"websocket"), *PSEUDO), True),
        (((b":method", b"Connect"), *PSEUDO[1:]), True),
        ((*PSEUDO[:3], (b":path", b"*")), True),
        ((*PSEUDO[:2], (b":authority", b""), PSEUDO[3]), True),
        ((*PSEUDO, (b"content-length", b"5")), True),
        ((*PSEUDO, (b"content-length", b"5"), (b"content-length", b"5")), False),
        ((*PSEUDO, (b"x", b" a")), True),
        ((*PSEUDO, (b"", b"a")), True),
    ],
)
def test_what_is_malformed_is_refused(fields: tuple[tuple[bytes, bytes], ...], ended: bool) -> None:
    with pytest.raises(HeaderError):
        request_head(fields, ended=ended)
