"""The corpus, damaged and cut at random: what reaches a host is what two strict readers saw a client say."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.proxy import reference
from tests.proxy.corpus import HOST, Case, load
from tests.proxy.reference import Message
from tests.proxy.rig import Proxy
from tests.proxy.talk import CORPUS, END, Stage, forwarded, in_order, on_the_way

PATIENCE = 0.1
"""Seconds without a word after which the client of a request that may be incomplete gives up."""

CASES = tuple(case for case in load(CORPUS) if len(case.data) < 2000)
PLAIN = tuple(case for case in CASES if case.outcome == "served")

# On these the two readers have no common opinion: llhttp stops where another protocol is asked for, takes
# Proxy-Connection for Connection and trailers for headers, h11 takes no bytes beyond ASCII. The corpus has
# such cases one by one.
_DISPUTED = re.compile(
    rb"(?i)upgrade|proxy-connection|[\x80-\xff]"
    rb"|\n0+\r\n(?:[^\r\n]+\r\n)*?(?:content-length|transfer-encoding)"
)
_BYTES = st.sampled_from(list(b"\r\n\t\0 :;,/%@#?\\+-_.=\"'0149afzAFZ\x0b\x7f\x80\xff"))


@pytest.fixture(scope="module")
def stage(running_proxy: Proxy, token: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with Stage(running_proxy, tmp_path_factory.mktemp("stage"), token) as made, made.watched():
        yield made


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """The bytes of one or two cases with a few changes, and the request after them."""
    cases = draw(st.lists(st.sampled_from(CASES), min_size=1, max_size=2))
    data = bytearray(b"".join(case.data for case in cases))
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, max(0, len(data) - 1)))
        end = min(len(data), start + draw(st.integers(1, 40)))
        match draw(st.sampled_from(("flip", "set", "insert", "remove", "repeat", "move"))):
            case "flip" if data:
                data[start] ^= 1 << draw(st.integers(0, 7))
            case "set":
                data[start : start + 1] = bytes([draw(_BYTES)])
            case "insert":
                data[start:start] = bytes(draw(st.lists(_BYTES, min_size=1, max_size=3)))
            case "remove":
                del data[start:end]
            case "repeat":
                data[start:start] = data[start:end]
            case _:
                piece = data[start:end]
                del data[start:end]
                data[draw(st.integers(0, len(data))) : 0] = piece
    return bytes(data) + END


@st.composite
def cuts(draw: st.DrawFn, data: bytes) -> list[bytes]:
    """The bytes in a few pieces."""
    places = sorted(draw(st.lists(st.integers(1, max(1, len(data) - 1)), max_size=3)))
    return [
        data[start:end] for start, end in zip([0, *places], [*places, len(data)], strict=True) if end > start
    ]


def _same(sent: Message, said: Message) -> bool:
    """Whether a request to a host is the one that the client made; of an unfinished one, its beginning."""
    expected = forwarded(said)
    if expected is None or (sent.method, sent.target) != (expected.method, expected.target):
        return False
    if sent.complete:
        return (sent.body, True) == (expected.body, expected.complete)
    return expected.body.startswith(sent.body)


def _holds(stage: Stage, pieces: list[bytes]) -> None:
    seen = stage.talk(pieces, "forward", patience=PATIENCE)
    data = b"".join(pieces)
    if b"HEAD" not in data:
        reference.answers_by_llhttp(seen.answer)
    stage.check(seen)
    if _DISPUTED.search(data):
        return
    said = reference.agreed(data)
    for host in seen.hosts:
        assert in_order(reference.by_h11(host).messages, said, _same), (data, seen.hosts)
    assert len(seen.requests) <= len(said)


def _budget(examples: int) -> settings:
    return settings(
        max_examples=examples,
        derandomize=examples < 1000,
        database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
        phases=[Phase.explicit, Phase.generate, Phase.shrink],
    )


@pytest.mark.slow
@given(st.data())
@_budget(400)
def test_no_damage_makes_a_request_that_nobody_made(stage: Stage, data: st.DataObject) -> None:
    _holds(stage, data.draw(damaged().flatmap(cuts)))


@pytest.mark.exhaustive
@given(st.data())
@_budget(1000)
def test_no_damage_makes_a_request_that_nobody_made_at_length(stage: Stage, data: st.DataObject) -> None:
    _holds(stage, data.draw(damaged().flatmap(cuts)))


def _cut_everywhere(stage: Stage, case: Case, road: str, step: int = 1) -> None:
    whole = stage.talk(on_the_way(case, road), road)
    data = b"".join(on_the_way(case, road))
    for place in range(1, len(data), step):
        seen = stage.talk([data[:place], data[place:]], road)
        stage.check(seen)
        assert [r.meaning for r in seen.requests] == [r.meaning for r in whole.requests], place
        assert seen.answer == whole.answer, place


SEGMENTED = ("chunk-extension", "trailer-unknown", "pipelined-after-a-body", "pipelined-second-denied-path")


@pytest.mark.slow
@pytest.mark.parametrize("name", SEGMENTED)
def test_where_a_segment_ends_changes_nothing(stage: Stage, name: str) -> None:
    (case,) = (case for case in CASES if case.name == name)
    _cut_everywhere(stage, case, "forward", 3)


@pytest.mark.exhaustive
@pytest.mark.parametrize("case", PLAIN, ids=[case.name for case in PLAIN])
def test_where_a_segment_ends_changes_nothing_for_any_request(stage: Stage, case: Case) -> None:
    for road in case.roads:
        _cut_everywhere(stage, case, road, 7)


def test_single_bytes_are_a_request(stage: Stage) -> None:
    request = (
        f"POST http://{HOST}/ok/a HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 4\r\n\r\nabcd".encode() + END
    )
    seen = stage.talk([bytes([byte]) for byte in request], "forward")
    assert [(r.target, r.body) for r in seen.requests] == [("/ok/a", b"abcd"), ("/ok/end", b"")]
