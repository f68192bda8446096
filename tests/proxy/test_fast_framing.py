"""Bodies as the fast engine reads them: like everybody who is strict, however they are cut into pieces."""

from __future__ import annotations

import h11
import pytest
from h11._receivebuffer import ReceiveBuffer
from hypothesis import given
from hypothesis import strategies as st

from nsharness_proxy import http1
from nsharness_proxy.chunks import Chunks
from nsharness_proxy.fast import wire
from nsharness_proxy.fast.framing import BodyError, Chunked, Fixed, Reader, UntilClosed

TAIL = b"GET /next HTTP/1.1\r\n\r\n"


def read(reader: Reader, pieces: list[bytes]) -> tuple[bytes, bool, bytes] | None:
    """The body, whether it has ended, and what is left over; None if it is none."""
    body, rest = b"", b""
    try:
        for piece in pieces:
            if reader.done:
                rest += piece
                continue
            found, rest = reader.feed(rest + piece)
            body += found
    except BodyError:
        return None
    return body, reader.done, rest


def cut(data: bytes, at: list[int]) -> list[bytes]:
    places = sorted({min(place, len(data)) for place in at})
    return [data[a:b] for a, b in zip([0, *places], [*places, len(data)], strict=True)]


def by_h11(data: bytes) -> tuple[bytes, bool, bytes] | None:
    """The same by the reader that mitmproxy is given."""
    reader, buffer, body = Chunks(), ReceiveBuffer(), b""
    buffer += data
    try:
        while (event := reader(buffer)) is not None:
            if isinstance(event, h11.EndOfMessage):
                return body, True, bytes(buffer)
            body += event.data
    except h11.RemoteProtocolError:
        return None
    return body, False, bytes(buffer)


_LINES = st.sampled_from(
    [b"1\r\n", b"3\r\n", b"0\r\n", b"\r\n", b"a", b"abc", b"\n", b"\r", b"3;a=b\r\n", b"X: y\r\n", b"03 \r\n"]
)


@given(data=st.lists(_LINES, max_size=12).map(b"".join), places=st.lists(st.integers(0, 40), max_size=4))
def test_chunks_are_read_as_by_the_other_reader_whatever_they_are(data: bytes, places: list[int]) -> None:
    whole, theirs = read(Chunked(), [data]), by_h11(data)
    if whole != theirs:
        # It refuses as soon as it can, which the other does when a line is complete.
        assert whole is None
        assert theirs is not None
        assert not theirs[1]
    # Where it is cut makes no difference.
    assert read(Chunked(), cut(data, places)) == whole


@given(body=st.lists(st.binary(min_size=1, max_size=50), max_size=5), places=st.lists(st.integers(0, 300)))
def test_what_was_chunked_is_what_comes_out(body: list[bytes], places: list[int]) -> None:
    data = b"".join(wire.chunk(piece) for piece in body) + wire.LAST_CHUNK + TAIL
    assert read(Chunked(), cut(data, places)) == (b"".join(body), True, TAIL)


@pytest.mark.parametrize(
    "data",
    [b"x" * 5000, b"1;" + b"a" * 5000, b"0\r\n" + b"X: y\r\n" * 20_000, b"0\r\nX: " + b"y" * 70_000],
)
def test_lines_are_bounded(data: bytes) -> None:
    reader, rest = Chunked(), b""
    for start in range(0, len(data), 1000):
        try:
            _, rest = reader.feed(rest + data[start : start + 1000])
        except BodyError:
            return
        assert len(rest) <= http1.MAX_HEAD
    pytest.fail("it takes any number of bytes for a line")


@given(length=st.integers(0, 60), places=st.lists(st.integers(0, 90)))
def test_a_length_is_kept_to(length: int, places: list[int]) -> None:
    data = bytes(range(length)) + TAIL
    assert read(Fixed(length), cut(data, places)) == (data[:length], True, TAIL)


def test_the_end_of_a_connection_is_an_end() -> None:
    assert read(UntilClosed(), [b"a", b"b"]) == (b"ab", False, b"")
