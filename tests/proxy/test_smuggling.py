"""Requests with two readings: none of them is passed on, and what is passed on has one (K6).

The corpus is ``data/smuggling.txt``; ``corpus`` tells how it is written.
"""

from __future__ import annotations

from collections.abc import Iterator

import h11
import pytest

from tests.proxy import reference
from tests.proxy.corpus import DIALLED, HOST, Case, load
from tests.proxy.rig import Proxy
from tests.proxy.talk import CORPUS, Stage, on_road, on_the_way

CASES = tuple(load(CORPUS))


def _parameters() -> Iterator[object]:
    for case in CASES:
        for road in case.roads:
            # On every road the same code reads the same bytes.
            mark = {"forward": [], "transparent": [pytest.mark.slow], "tunnel": [pytest.mark.exhaustive]}[
                road
            ]
            marks = mark if len(case.roads) > 1 else []
            yield pytest.param(case, road, id=f"{case.name}-{road}", marks=marks)


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


def test_the_corpus_is_large_and_its_names_are_unique() -> None:
    assert len({case.name for case in CASES}) == len(CASES) >= 120


@pytest.mark.parametrize(("case", "road"), [*_parameters()])
def test_a_request_is_refused_or_means_one_thing(stage: Stage, case: Case, road: str) -> None:
    seen = stage.talk(on_the_way(case, road), road)
    stage.check(seen)
    assert not seen.stalled
    requests = seen.requests
    got = [(r.method, r.target, r.hosts[0], r.body) for r in requests if r.complete]
    methods = [m.method for m in reference.by_h11(b"".join(on_the_way(case, road))).messages]
    answers = reference.answers_by_h11(seen.answer, methods)
    statuses = [answer.status for answer in answers]
    if "HEAD" not in methods:
        assert reference.answers_by_llhttp(seen.answer) == answers
    if case.outcome == "refused":
        assert seen.hosts == []
        # Where a connection has not begun to be one of HTTP, there is nobody to answer.
        assert [400 <= status < 500 for status in statuses] == [True] or (road != "forward" and not statuses)
    elif case.outcome == "cut":
        assert got == []
        assert len(requests) <= 1
        assert len(statuses) <= 1
    else:
        ends = not case.closes
        host = DIALLED if road == "transparent" else HOST
        expected = [(m, t, host if h == HOST else h, on_road(b, road)) for m, t, h, b in case.upstream]
        expected += ends * [("GET", "/ok/end", host, b"")]
        # Each host has connections of its own.
        assert sorted(got, key=lambda r: r[2]) == sorted(expected, key=lambda r: r[2])
        assert statuses == [*case.statuses, *(ends * [200])]
        _belong_together(answers, expected)


@pytest.mark.parametrize(
    "case", [c for c in CASES if c.name in ("chunk-size-negative", "chunk-garbage-after-data")]
)
def test_a_client_is_told_that_its_chunks_are_bad(stage: Stage, case: Case) -> None:
    assert stage.talk(on_the_way(case, "forward"), "forward").answer.startswith(b"HTTP/1.1 400 ")


def _belong_together(answers: list[reference.Answer], requests: list[tuple[str, str, str, bytes]]) -> None:
    """Each answer of a host is the one to its request."""
    bodies = [answer.body for answer in answers if answer.status == 200]
    assert [body for body in bodies if body] == [
        f"{method} {target}".encode("latin-1") for method, target, _, _ in requests if method != "HEAD"
    ]


def test_the_readers_tell_the_difference() -> None:
    """What the other tests rest on: neither reader accepts everything."""
    for ambiguous in (
        b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: +1\r\n\r\na",
        b"GET / HTTP/1.1\r\nHost: a\r\nX : a\r\n\r\n",
    ):
        assert reference.agreed(ambiguous) == []
    with pytest.raises(h11.RemoteProtocolError):
        reference.answers_by_h11(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nab\r\n")
