"""The strict reader of heads and chunks, on bytes alone: no leniency, and no difference by segments."""

from __future__ import annotations

import random
import re

import h11
import pytest
from h11._receivebuffer import ReceiveBuffer
from hypothesis import given
from hypothesis import strategies as st

from nsharness_proxy import http1
from nsharness_proxy.chunks import Chunks
from tests.proxy import reference
from tests.proxy.corpus import load
from tests.proxy.talk import CORPUS

CASES = tuple(case for case in load(CORPUS) if len(case.data) < 3000)
GET = b"GET http://docs.test/ok HTTP/1.1\r\nHost: docs.test\r\n"
OK = b"HTTP/1.1 200 OK\r\n"


def read(data: bytes, *, answer: bool = False, last: http1.Block | None = None) -> http1.Head | str | None:
    """What comes of it: a head, None, or why it is none."""
    try:
        return http1.answer_head(data) if answer else http1.request_head(data, last)
    except http1.HeadError as error:
        return str(error)


def bare(data: bytes) -> bytes:
    """Without the empty lines that may stand before a request."""
    while data.startswith(b"\r\n"):
        data = data[2:]
    return data


def test_what_is_a_head_for_us_is_one_for_others_and_means_the_same() -> None:
    for case in CASES:
        data = bare(case.data)
        head = read(data)
        if not isinstance(head, http1.Head) or re.search(rb"[\x80-\xff]", data.partition(b"\r\n")[0]):
            continue
        if len(re.findall(rb"(?im)^host:", data[: head.size])) != 1:
            continue  # Which host is meant is not this reader's business.
        (ours,) = reference.by_h11(data).messages[:1]
        assert ours.method.encode() == head.method, case.name
        (theirs, *_) = [*reference.by_llhttp(data).messages, None]
        if theirs is not None:  # llhttp knows no methods but those of its list
            meant = (theirs.method, theirs.target, theirs.hosts)
            assert meant == (ours.method, ours.target, ours.hosts), case.name


def test_a_head_is_the_same_however_it_comes() -> None:
    for case in CASES:
        data = bare(case.data)
        whole = read(data)
        for end in range(1, len(data)):
            part = read(data[:end])
            # A part is incomplete, or what the whole is: never a head that the whole is not.
            assert part in (None, whole), (case.name, end)


def test_a_head_after_another_is_what_it_is_by_itself() -> None:
    """Whichever of the corpus was read before it."""
    heads = {head.block: None for case in CASES if isinstance(head := read(bare(case.data)), http1.Head)}
    assert len(heads) > 10
    for case in CASES:
        data = bare(case.data)
        alone = read(data)
        for block in heads:
            assert read(data, last=block) == alone, case.name


@given(st.integers(0, 2**32))
def test_a_head_that_is_almost_the_last_one_is_read_anew(seed: int) -> None:
    """The same, damaged at random, in several steps: each is read after the one before it."""
    rng = random.Random(seed)
    last, data = None, bytearray(GET + b"Content-Length: 4\r\nExpect: a\r\nConnection: x, close\r\n\r\n")
    for _ in range(12):
        before = bytes(data)
        for _ in range(rng.randrange(3)):
            place = rng.randrange(len(data))
            data[place : place + rng.randrange(3)] = bytes([rng.choice(b"\r\n\t\0 :,=0149GTxX\x7f\x80")])
        made = read(bytes(data), last=last)
        assert made == read(bytes(data))
        if isinstance(made, http1.Head):
            assert last is None or (made.block is last) is (made.block == last)
            last = made.block
        else:
            data[:] = before


BAD_REQUESTS = {
    "a bare LF before it": b"\n" + GET + b"\r\n",
    "a space before it": b" " + GET + b"\r\n",
    "two spaces": GET.replace(b" ", b"  ", 1) + b"\r\n",
    "a tab": GET.replace(b" ", b"\t", 1) + b"\r\n",
    "a space at the line's end": GET.replace(b"HTTP/1.1", b"HTTP/1.1 ") + b"\r\n",
    "no version": b"GET /\r\n\r\n",
    "version 2": GET.replace(b"1.1", b"2.0") + b"\r\n",
    "a colon in the method": b"GET:" + GET[3:] + b"\r\n",
    "a fold": GET + b"X-A: a\r\n b\r\n\r\n",
    "a bare LF": GET + b"X-A: a\nX-B: b\r\n\r\n",
    "a bare CR": GET + b"X-A: a\rX-B: b\r\n\r\n",
    "a NUL": GET + b"X-A: \0\r\n\r\n",
    "a space before the colon": GET + b"Content-Length : 0\r\n\r\n",
    "no colon": GET + b"nothing\r\n\r\n",
    "no name": GET + b": a\r\n\r\n",
    "two lengths": GET + b"Content-Length: 1\r\nContent-Length: 1\r\n\r\n",
    "a length and chunks": GET + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
    "a length with a sign": GET + b"Content-Length: +1\r\n\r\n",
    "a list of lengths": GET + b"Content-Length: 1, 1\r\n\r\n",
    "a length of 19 digits": GET + b"Content-Length: 1000000000000000000\r\n\r\n",
    "another coding": GET + b"Transfer-Encoding: gzip, chunked\r\n\r\n",
    "chunks in HTTP/1.0": GET.replace(b"1.1", b"1.0") + b"Transfer-Encoding: chunked\r\n\r\n",
    "a tunnel with a body": b"CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\nContent-Length: 4\r\n\r\n",
    "64 KiB": GET + b"X-A: " + b"a" * http1.MAX_HEAD + b"\r\n\r\n",
}


@pytest.mark.parametrize("what", BAD_REQUESTS)
def test_no_request(what: str) -> None:
    assert isinstance(read(BAD_REQUESTS[what]), str)
    # The same line or field in an answer.
    answer = BAD_REQUESTS[what].replace(GET, OK)
    if answer.startswith(OK):
        assert isinstance(read(answer, answer=True), str)


@pytest.mark.parametrize(
    "line",
    [
        b"HTTP/1.1  200 OK", b"HTTP/1.1\t200 OK", b" HTTP/1.1 200 OK", b"HTTP/1.2 200 OK", b"HTTP/2.0 200 OK",
        b"http/1.1 200 OK", b"ICY 200 OK", b"HTTP/1.1 099 A", b"HTTP/1.1 20 A", b"HTTP/1.1 2000 A",
        b"HTTP/1.1 +20 A", b"HTTP/1.1 2_0 A", b"HTTP/1.1 200 \0", b"HTTP/1.1 200 a\rb", b"HTTP/1.1 200 \x1b",
        b"HTTP/1.1", b"\r\nHTTP/1.1 200 OK", b"\nHTTP/1.1 200 OK", b"Server: a",
    ],
)  # fmt: skip
def test_no_status_line(line: bytes) -> None:
    assert isinstance(read(line + b"\r\n\r\n", answer=True), str)


def test_what_is_kept_of_a_head() -> None:
    host = (b"Host", b"docs.test")
    target = b"http://docs.test/ok"
    block = http1.Block(b"Host: docs.test\r\n", b"HTTP/1.1", (host,), None, False, False, False, False)
    assert read(GET + b"\r\nrest") == http1.Head(len(GET) + 2, block, b"GET", target)
    closing = read(GET + b"Connection: a, CLOSE\r\nContent-Length: 70\r\n\r\n")
    assert isinstance(closing, http1.Head)
    assert (closing.closes, closing.length, closing.chunked, closing.has_body) == (True, 70, False, True)
    empty = read(GET + b"content-length: 0\r\n\r\n")
    assert isinstance(empty, http1.Head)
    assert (empty.length, empty.has_body) == (0, False)
    chunked = read(GET + b"Transfer-Encoding:\tCHUNKED \r\n\r\n")
    assert isinstance(chunked, http1.Head)
    assert (chunked.length, chunked.chunked, chunked.has_body) == (None, True, True)
    for line, reason in ((b"", b""), (b" ", b""), (b" No \xc3\xa4", b"No \xc3\xa4")):
        line = b"HTTP/1.1 204" + line
        block = http1.Block(b"", b"HTTP/1.1", (), None, False, False, False, False)
        assert read(line + b"\r\n\r\n", answer=True) == http1.Head(
            len(line) + 4, block, status=204, reason=reason
        )
    old = read(b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n\r\n", answer=True)
    assert isinstance(old, http1.Head)
    assert (old.size, old.closes, old.status) == (43, True, 200)


# --- chunks -----------------------------------------------------------------------------------------------


def body(pieces: list[bytes]) -> tuple[bytes, bool] | None:
    """What a reader makes of a chunked body that comes in pieces: the data, and whether it has ended."""
    reader, buffer, data, ended = Chunks(), ReceiveBuffer(), b"", False
    try:
        for piece in pieces:
            buffer += piece
            while not ended and (event := reader(buffer)) is not None:
                if isinstance(event, h11.EndOfMessage):
                    ended = True
                else:
                    data += bytes(event.data)
    except h11.RemoteProtocolError:
        return None
    return data, ended


def by_llhttp(data: bytes) -> tuple[bytes, bool] | None:
    """The same, by another reader."""
    requests = reference.Requests()
    requests.feed(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + data)
    if requests.error:
        return None
    message = requests.messages[0]
    return message.body, message.complete


BAD_CHUNKS = [
    b"g\r\n", b"-1\r\n", b"+1\r\n", b"0x1\r\n", b"\r\n", b" 1\r\na\r\n", b"1 \r\na\r\n", b"1\t\r\na\r\n",
    b"1\r\nab\r\n", b"1\r\na\n", b"1000000000000000\r\n", b"1\na\n", b"1 a\r\na\r\n", b"1;\r\na\r\n",
    b"1;a\rb\r\na\r\n", b"1; a\r\na\r\n", b"1;a =b\r\na\r\n", b"1;a= b\r\na\r\n",
    b'1;a="b\r\na\r\n', b'1;a="b"c\r\na\r\n', b"1;a=\r\na\r\n", b"1;a=\0\r\na\r\n", b"1;" + b"a" * 5000,
    b"0\r\nX-A: a\n\r\n", b"0\r\nX-A: a\r\n b\r\n\r\n", b"0\r\nnothing\r\n\r\n", b"0\r\n\n", b"0\n\r\n",
    b"0\r\n" + b"X-A: a\r\n" * 10_000 + b"\r\n", b"0\r\nX-A: " + b"a" * 70_000,
]  # fmt: skip


@pytest.mark.parametrize("data", BAD_CHUNKS)
def test_no_chunks(data: bytes) -> None:
    assert body([data]) is None
    if len(data) < 1000:
        assert body([bytes([byte]) for byte in data]) is None


@pytest.mark.parametrize(
    ("data", "content"),
    [
        (b"0\r\n\r\n", b""),
        (b"1\r\na\r\nB\r\n0123456789a\r\n000\r\n\r\n", b"a0123456789a"),
        (b'1;a=b;c="d\\";\x80";e\r\na\r\n0;last\r\nX-A: a\r\nContent-Length: 9\r\n\r\n', b"a"),
    ],
)
def test_chunks(data: bytes, content: bytes) -> None:
    assert body([data]) == (content, True)
    for end in range(len(data)):
        assert body([data[:end]]) in [(content[:size], False) for size in range(len(content) + 1)]
        assert body([data[:end], data[end:]]) == (content, True)


@given(st.integers(0, 2**32))
def test_chunks_that_pass_mean_the_same_to_another_reader(seed: int) -> None:
    """Damaged at random: what we take, llhttp takes for the same data."""
    rng = random.Random(seed)
    data = bytearray(b'4;a="b"\r\nabcd\r\n1\r\ne\r\n0\r\nX-A: b\r\n\r\n')
    for _ in range(rng.randrange(1, 4)):
        place = rng.randrange(len(data))
        data[place : place + rng.randrange(2)] = bytes([rng.choice(b'\r\n\t\0 :;="019afAG\x7f\x80')])
    ours = body([bytes(data)])
    if ours is not None and ours[1] and b"\x80" not in data:
        assert by_llhttp(bytes(data)) == ours, data


def test_the_other_reader_can_say_no() -> None:
    assert by_llhttp(b"1\r\nab\r\n") is None
    assert by_llhttp(b"1\r\na\r\n0\r\n\r\n") == (b"a", True)
