"""Both engines are told the same: they decide the same, send hosts the same, and record the same."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Any

import pytest

from tests.proxy import reference
from tests.proxy.corpus import Case, load
from tests.proxy.recorder import named
from tests.proxy.reference import Message
from tests.proxy.rig import Proxy
from tests.proxy.talk import CORPUS, DENIED, END, OPEN, Seen, Stage, on_the_way
from tests.proxy.test_hostile_answers import ANSWERS

# mitmproxy passes two of these on, and then the client waits for an answer that is dropped.
CASES = tuple(case for case in load(CORPUS) if case.name != "expect-twice")
ENGINES = ("mitmproxy", "fast")
# Of the moment, or of the connection.
_VOLATILE = ("at", "time", "seconds", "sandbox", "request")


@pytest.fixture(scope="module")
def stages(
    running_proxy: Proxy, token: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Stage]]:
    with (
        Stage(running_proxy, tmp_path_factory.mktemp("one"), token, ENGINES[0]) as one,
        Stage(running_proxy, tmp_path_factory.mktemp("other"), token, ENGINES[1]) as other,
    ):
        yield dict(zip(ENGINES, (one, other), strict=True))


def _sampled(name: str) -> list[pytest.MarkDecorator]:
    """Most of them only when there is time."""
    return [] if zlib.crc32(name.encode()) % 16 == 0 else [pytest.mark.slow]


def _requests() -> Iterator[object]:
    for case in CASES:
        for road in case.roads:
            name = f"{case.name}-{road}"
            yield pytest.param(case, road, id=name, marks=_sampled(name))


@pytest.mark.parametrize(("case", "road"), [*_requests()])
def test_requests_are_decided_on_sent_and_recorded_alike(
    stages: dict[str, Stage], case: Case, road: str
) -> None:
    seen = {}
    for engine, stage in stages.items():
        with stage.watched():
            seen[engine] = stage.talk(on_the_way(case, road), road)
    one, other = (seen[engine] for engine in ENGINES)
    if case.outcome == "cut":
        # How much of it has gone on by then is a matter of time, whichever engine it is.
        assert not any(request.complete for request in (*one.requests, *other.requests))
        for recorded in (_recorded(one), _recorded(other)):
            assert {"action": "deny", "reason": "malformed-request"} in recorded
            assert "response" not in [event["action"] for event in recorded]
    else:
        assert _sent(other) == _sent(one)
        assert _recorded(other) == _recorded(one)
    methods = [m.method for m in reference.by_h11(b"".join(on_the_way(case, road))).messages]
    statuses = [[a.status for a in reference.answers_by_h11(s.answer, methods)] for s in (one, other)]
    assert statuses[1] == statuses[0]


def _answers() -> Iterator[object]:
    for name, pieces in ANSWERS:
        for method in ("GET", "HEAD"):
            yield pytest.param(method, pieces, id=f"{name}-{method}", marks=_sampled(name + method))


@pytest.mark.parametrize(("method", "pieces"), [*_answers()])
def test_answers_are_passed_on_and_recorded_alike(
    stages: dict[str, Stage], method: str, pieces: list[bytes]
) -> None:
    def answer(request: Message) -> list[bytes]:
        return pieces if request.target == "/first" else named(request)

    seen = {}
    first = f"{method} http://{OPEN}/first HTTP/1.1\r\nHost: {OPEN}\r\n\r\n".encode()
    for engine, stage in stages.items():
        with stage.watched():
            stage.recorder.answer = answer
            seen[engine] = stage.talk([first + END], "forward")
    one, other = (seen[engine] for engine in ENGINES)
    read = [
        # Of a body that ends in the middle as much may have come as was there.
        [(a.status, a.complete and a.body) for a in reference.answers_by_h11(s.answer, [method])]
        for s in (one, other)
    ]
    assert read[1] == read[0]
    assert _recorded(other) == _recorded(one)


def _sent(seen: Seen) -> list[Any]:
    """The requests that hosts got, field by field; where none of them is chunked, byte by byte."""
    if not any(b"chunked" in data.lower() for data in seen.hosts):
        return sorted(seen.hosts)
    return [(m.meaning, m.fields) for m in seen.requests]


def _recorded(seen: Seen) -> list[dict[str, Any]]:
    events = []
    begun = {event.get("request") for event in seen.events if event["action"] in ("allow", "inject")}
    for event in seen.events:
        if event["action"] in ("error", "response") and event.get("request") not in begun:
            # The late end of a request of the case before.
            continue
        if event.get("host") == DENIED and event["road"] == "forward":
            # Perhaps only the stage's own, with which it waits for others.
            continue
        kept = {key: value for key, value in event.items() if key not in _VOLATILE}
        if event.get("reason") == "malformed-request":
            # One says more about what was malformed than the other.
            kept = {"action": event["action"], "reason": event["reason"]}
        if event["action"] == "error":
            # Of a body that ends in the middle.
            kept.pop("received", None)
        if "proof" in kept:
            proof = {k: v for k, v in kept["proof"].items() if k not in ("sandbox", "secret_version")}
            kept["proof"] = {**proof, "upstream": {**proof["upstream"], "port": 0}}
        events.append(kept)
    return events
