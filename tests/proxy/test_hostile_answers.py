"""Hosts that answer what is no answer, or more than one: the client's connection stays in step, or ends.

The client asks a hostile host and, on the same connection, for something else. Whatever comes as the
second answer belongs to the second request.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.proxy import reference
from tests.proxy.recorder import named
from tests.proxy.reference import Message
from tests.proxy.rig import Proxy
from tests.proxy.talk import END, OPEN, Stage

EVIL = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nEVIL"
OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
LENGTH = b"Content-Length: 4\r\n\r\nabcd"
CLOSE = b""


UNENDING = (
    "205-",
    "chunk-huge",
    "chunk-bare-lf",
    "until-closed",
    "length-huge",
    "coding-gzip",
    "coding-identity",
)
"""What may be read until the host closes."""


def _framings() -> Iterator[tuple[str, bytes]]:
    chunked = b"Transfer-Encoding: chunked\r\n"
    body = b"0\r\n\r\n"
    for name, head in {
        "length-and-chunked": b"Content-Length: 5\r\n" + chunked,
        "chunked-and-length": chunked + b"Content-Length: 5\r\n",
        "lengths-equal": b"Content-Length: 5\r\nContent-Length: 5\r\n",
        "lengths-different": b"Content-Length: 5\r\nContent-Length: 0\r\n",
        "length-list": b"Content-Length: 5, 5\r\n",
        "length-sign": b"Content-Length: +5\r\n",
        "length-negative": b"Content-Length: -5\r\n",
        "length-hex": b"Content-Length: 0x5\r\n",
        "length-leading-zero": b"Content-Length: 05\r\n",
        "length-underscore": b"Content-Length: 0_5\r\n",
        "length-empty": b"Content-Length:\r\n",
        "length-huge": b"Content-Length: " + b"9" * 40 + b"\r\n",
        "chunked-twice": b"Transfer-Encoding: chunked, chunked\r\n",
        "chunked-in-two-fields": chunked + chunked,
        "chunked-then-identity": b"Transfer-Encoding: chunked, identity\r\n",
        "chunked-after-identity": b"Transfer-Encoding: identity, chunked\r\n",
        "chunked-after-gzip": b"Transfer-Encoding: gzip, chunked\r\n",
        "coding-gzip": b"Transfer-Encoding: gzip\r\n",
        "coding-identity": b"Transfer-Encoding: identity\r\n",
        "coding-unknown": b"Transfer-Encoding: xchunked\r\n",
        "coding-quoted": b'Transfer-Encoding: "chunked"\r\n',
        "coding-with-vertical-tab": b"Transfer-Encoding: \x0bchunked\r\n",
        "coding-after-bare-cr": b"Content-Length: 5\r\nX-A: a\rTransfer-Encoding: chunked\r\n",
        "coding-after-bare-lf": b"Content-Length: 5\r\nX-A: a\nTransfer-Encoding: chunked\r\n",
        "coding-folded": b"Content-Length: 5\r\nX-A: a\r\n Transfer-Encoding: chunked\r\n",
        "coding-after-nul": b"Content-Length: 5\r\nX-A: a\0\r\n",
        "value-with-bare-cr": b"Content-Length: 5\r\nX-A: a\rX-B: b\r\n",
        "value-with-control": b"Content-Length: 5\r\nX-A: \x01\x7f\r\n",
        "value-folded": b"Content-Length: 5\r\nX-A: a\r\n b\r\n",
        "value-with-bare-lf": b"Content-Length: 5\r\nX-A: a\nX-B: b\r\n",
        "space-before-colon": b"Content-Length : 5\r\n",
        "name-with-space": b"Content-Length: 5\r\nX A: a\r\n",
        "name-beyond-ascii": b"Content-Length: 5\r\nX\xc3\xa4: a\r\n",
        "no-colon": b"Content-Length: 5\r\nnothing\r\n",
        "no-name": b"Content-Length: 5\r\n: a\r\n",
        "connection-lists-length": b"Connection: Content-Length\r\nContent-Length: 5\r\n",
        "upgrade-unasked": b"Connection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: 5\r\n",
        "until-closed-and-keep-alive": b"Connection: keep-alive\r\n",
    }.items():
        yield name, OK + head + b"\r\n" + body


def _status_lines() -> Iterator[tuple[str, bytes]]:
    for name, line in {
        "switching": b"HTTP/1.1 101 Switching Protocols",
        "switching-with-sign": b"HTTP/1.1 +101 Switching Protocols",
        "switching-with-zero": b"HTTP/1.1 0101 Switching Protocols",
        "switching-with-underscore": b"HTTP/1.1 1_01 Switching Protocols",
        "switching-after-two-spaces": b"HTTP/1.1  101 Switching Protocols",
        "switching-after-tab": b"HTTP/1.1\t\t101 Switching Protocols",
        "switching-after-space": b" HTTP/1.1 101 Switching Protocols",
        "interim-after-two-spaces": b"HTTP/1.1  100 Continue",
        "interim-with-zero": b"HTTP/1.1 0100 Continue",
        "interim-with-sign": b"HTTP/1.1 +103 Early Hints",
        "interim-after-space": b" HTTP/1.1 100 Continue",
        "interim-version-1.2": b"HTTP/1.2 100 Continue",
        "interim-version-2.0": b"HTTP/2.0 100 Continue",
        "interim-version-0.9": b"HTTP/0.9 100 Continue",
        "interim-without-reason": b"HTTP/1.1 100",
        "interim-unknown": b"HTTP/1.1 199 What",
        "interim-of-four-digits": b"HTTP/1.1 1000 What",
        "status-below": b"HTTP/1.1 99 What",
        "status-zero": b"HTTP/1.1 000 What",
        "status-of-four-digits": b"HTTP/1.1 2000 What",
        "status-negative": b"HTTP/1.1 -200 OK",
        "status-with-sign": b"HTTP/1.1 +200 OK",
        "status-with-underscore": b"HTTP/1.1 2_00 OK",
        "status-of-two-digits": b"HTTP/1.1 20 OK",
        "status-fullwidth": b"HTTP/1.1 \xef\xbc\x92\xef\xbc\x90\xef\xbc\x90 OK",
        "status-999": b"HTTP/1.1 999 What",
        "status-after-tab": b"HTTP/1.1\t200\tOK",
        "status-missing": b"HTTP/1.1",
        "reason-with-bare-cr": b"HTTP/1.1 200 a\rX-A: b",
        "reason-with-bare-lf": b"HTTP/1.1 200 a\nX-A: b",
        "reason-with-nul": b"HTTP/1.1 200 \0",
        "reason-with-escape": b"HTTP/1.1 200 \x1b[2J",
        "reason-beyond-ascii": b"HTTP/1.1 200 \xc3\xa4",
        "version-0.9": b"HTTP/0.9 200 OK",
        "version-1.2": b"HTTP/1.2 200 OK",
        "version-2.0": b"HTTP/2.0 200 OK",
        "version-3.0": b"HTTP/3.0 200 OK",
        "version-3.1": b"HTTP/3.1 200 OK",
        "version-in-lower-case": b"http/1.1 200 OK",
        "version-icy": b"ICY 200 OK",
        "no-status-line": b"Server: a",
        "a-request": b"GET / HTTP/1.1",
    }.items():
        if name.startswith(("interim", "switching")):
            yield f"{name}-alone", line + b"\r\n\r\n" + OK + LENGTH
        yield name, line + b"\r\n" + LENGTH + EVIL


def _bodies() -> Iterator[tuple[str, bytes]]:
    for status in (204, 205, 304):
        line = b"HTTP/1.1 %d What\r\n" % status
        yield f"{status}-with-chunks", line + b"Transfer-Encoding: chunked\r\n\r\n4\r\nabcd\r\n0\r\n\r\n"
        yield f"{status}-with-no-chunks", line + b"Transfer-Encoding: chunked\r\n\r\n"
        yield f"{status}-with-last-chunk", line + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
        yield f"{status}-with-body", line + LENGTH
        yield f"{status}-with-length-only", line + b"Content-Length: 4\r\n\r\n"
        yield f"{status}-with-neither", line + b"\r\n"
        yield f"{status}-and-another", line + b"\r\n" + EVIL
    for name, chunks in {
        "negative": b"-4\r\nabcd\r\n0\r\n\r\n",
        "hex-prefix": b"0x4\r\nabcd\r\n0\r\n\r\n",
        "no-number": b"\r\nabcd\r\n0\r\n\r\n",
        "huge": b"10000000000000004\r\nabcd\r\n0\r\n\r\n",
        "nothing-after-data": b"4\r\nabcd0\r\n\r\n",
        "too-long": b"3\r\nabcd\r\n0\r\n\r\n",
        "bare-lf": b"4\nabcd\n0\n\n",
        "bare-lf-at-the-end": b"4\r\nabcd\r\n0\r\n\n",
        "extension": b"4;a=b\r\nabcd\r\n0\r\n\r\n",
        "extension-with-lf": b"4;a\nb\r\nabcd\r\n0\r\n\r\n",
        "extension-with-cr": b"4;a\rb\r\nabcd\r\n0\r\n\r\n",
        "trailing-space": b"4 \r\nabcd\r\n0\r\n\r\n",
        "trailers": b"4\r\nabcd\r\n0\r\nContent-Length: 9\r\nX-A: b\r\n\r\n",
        "trailer-without-colon": b"4\r\nabcd\r\n0\r\nnothing\r\n\r\n",
        "trailer-with-bare-lf": b"4\r\nabcd\r\n0\r\nX-A: b\nX-B: c\r\n\r\n",
    }.items():
        yield f"chunk-{name}", CHUNKED + chunks
        yield f"chunk-{name}-and-another", CHUNKED + chunks + EVIL


def _answers() -> Iterator[tuple[str, list[bytes]]]:
    for name, data in (*_framings(), *_status_lines(), *_bodies()):
        yield name, [data, CLOSE] if name.startswith(UNENDING) else [data]
    yield "until-closed", [OK + b"\r\nabcd" + EVIL, CLOSE]
    yield "coding-gzip-until-closed", [OK + b"Transfer-Encoding: gzip\r\n\r\nabcd" + EVIL, CLOSE]
    flood = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" * 1000
    yield "two-answers", [OK + LENGTH + EVIL]
    yield "two-answers-in-turn", [OK + LENGTH, EVIL]
    yield "answer-and-garbage", [OK + LENGTH + b"garbage\r\n\r\n"]
    yield "answer-and-empty-lines", [OK + LENGTH + b"\r\n\r\n"]
    yield "answer-after-empty-lines", [b"\r\n\r\n" + OK + LENGTH, CLOSE]
    yield "answer-after-bare-lf", [b"\n" + OK + LENGTH, CLOSE]
    yield "answer-after-bare-lf-alone", [b"\n", OK + LENGTH, CLOSE]
    yield "closing-and-another", [OK + b"Connection: close\r\n" + LENGTH + EVIL]
    yield "closing-in-capitals-and-another", [OK + b"Connection: CLOSE\r\n" + LENGTH + EVIL, CLOSE]
    yield "http-1.0-and-another", [b"HTTP/1.0 200 OK\r\n" + LENGTH + EVIL]
    yield "http-1.0-with-chunks", [b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + EVIL]
    yield "many-interim-answers", [flood + OK + LENGTH]
    yield "nothing-but-interim-answers", [flood, CLOSE]
    yield "interim-answer-with-body", [b"HTTP/1.1 100 Continue\r\n" + LENGTH + OK + LENGTH, CLOSE]
    yield "head-very-long", [OK + b"X-A: " + b"a" * 100_000 + b"\r\n" + LENGTH]
    yield "head-of-many-fields", [OK + b"X-A: a\r\n" * 20_000 + LENGTH]
    yield "head-without-end", [OK + b"X-A: a\r\n" * 20_000, CLOSE]
    yield "closed-at-once", [CLOSE]
    yield "closed-in-the-status-line", [b"HTTP/1.1 20", CLOSE]
    yield "closed-in-the-head", [OK + b"Content-Le", CLOSE]
    yield "closed-in-the-body", [OK + b"Content-Length: 5\r\n\r\nabcd", CLOSE]
    yield "closed-in-a-chunk", [CHUNKED + b"5\r\nabcd", CLOSE]
    yield "closed-before-the-last-chunk", [CHUNKED + b"4\r\nabcd\r\n", CLOSE]
    yield "closed-in-the-trailers", [CHUNKED + b"4\r\nabcd\r\n0\r\nX-A: b\r\n", CLOSE]


ANSWERS = tuple(_answers())


@pytest.fixture(scope="module")
def shared_stage(
    running_proxy: Proxy, token: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stage]:
    with Stage(running_proxy, tmp_path_factory.mktemp("stage"), token) as made:
        yield made


@pytest.fixture
def stage(shared_stage: Stage) -> Iterator[Stage]:
    with shared_stage.watched():
        yield shared_stage


def _parameters() -> Iterator[object]:
    for name, pieces in ANSWERS:
        for kind in ("GET", "GET-same-host", "HEAD"):
            method, _, following = kind.partition("-")
            marks = [pytest.mark.exhaustive] if following else [pytest.mark.slow] if method == "HEAD" else []
            yield pytest.param(method, following, pieces, id=f"{name}-{kind}", marks=marks)


@pytest.mark.parametrize(("method", "following", "pieces"), [*_parameters()])
def test_the_next_answer_belongs_to_the_next_request(
    stage: Stage, method: str, following: str, pieces: list[bytes]
) -> None:
    def answer(request: Message) -> list[bytes]:
        return pieces if request.target == "/first" else named(request)

    stage.recorder.answer = answer
    first = f"{method} http://{OPEN}/first HTTP/1.1\r\nHost: {OPEN}\r\n\r\n".encode()
    second = END.replace(b"docs.test", OPEN.encode()) if following else END
    seen = stage.talk([first + second], "forward")
    # Our own page ends the connection. Whether it has a body is another question.
    methods = [] if seen.answer.startswith(b"HTTP/1.1 502 ") else [method]
    answers = reference.answers_by_h11(seen.answer, methods)
    if method == "GET":
        assert [a.status for a in reference.answers_by_llhttp(seen.answer)] == [a.status for a in answers]
    assert len(answers) in (1, 2)
    assert b"GET /ok/end" not in answers[0].body
    if len(answers) == 2:
        assert answers[0].complete
        assert (answers[1].status, answers[1].body) == (200, b"GET /ok/end")
    assert stage.token.encode() not in seen.answer
    # What the client said to the second host did not go to the first, and the other way round.
    assert all(
        data.count(b"/first") + data.count(b"/ok/end") <= (2 if following else 1) for data in seen.hosts
    )
    assert not any(b"http://" in data for data in seen.hosts)


def test_an_answer_of_ours_to_head_has_no_body(stage: Stage) -> None:
    """RFC 9110 section 9.3.2: what follows the head would be the next answer."""
    stage.recorder.answer = lambda request: [b"nothing that is HTTP\r\n\r\n", CLOSE]
    head = f"HEAD http://{OPEN}/first HTTP/1.1\r\nHost: {OPEN}\r\n\r\n".encode()
    seen = stage.talk([head], "forward")
    assert seen.answer.startswith(b"HTTP/1.1 502 ")
    assert seen.answer.endswith(b"\r\n\r\n")


def test_an_answer_after_an_empty_line_is_one_or_none_but_not_waited_for(stage: Stage) -> None:
    stage.recorder.answer = lambda request: [b"\r\n" + OK + LENGTH]
    first = f"GET http://{OPEN}/first HTTP/1.1\r\nHost: {OPEN}\r\n\r\n".encode()
    assert not stage.talk([first + END], "forward", patience=0.3).stalled
