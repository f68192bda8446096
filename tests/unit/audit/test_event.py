"""Audit events as JSON objects, and back."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsharness.audit.event import AuditEvent, Encoded

EVENT = AuditEvent(
    1, "2026-01-01T00:00:00.000Z", "s1", "inject", "forward", request=7, headers=("Authorization",)
)

texts = st.none() | st.text(max_size=40)
numbers = st.none() | st.integers(min_value=0, max_value=1 << 60)
events = st.builds(
    AuditEvent,
    at=st.integers(min_value=0),
    time=st.text(max_size=30),
    sandbox=st.text(max_size=30),
    action=st.sampled_from(["allow", "inject", "deny", "response", "error"]),
    road=st.sampled_from(["transparent", "connect", "forward", "dns"]),
    request=st.integers(min_value=0),
    method=texts,
    scheme=texts,
    host=texts,
    port=numbers,
    path=texts,
    rule=texts,
    reason=texts,
    headers=st.lists(st.text(max_size=20), max_size=3).map(tuple),
    status=numbers,
    sent=numbers,
    received=numbers,
    seconds=st.none() | st.floats(allow_nan=False, allow_infinity=False),
    proof=st.none() | st.dictionaries(st.text(max_size=5), st.booleans(), max_size=3),
)


@given(events)
def test_an_event_survives_json(event: AuditEvent) -> None:
    assert AuditEvent.from_json(json.loads(json.dumps(event.to_json()))) == event


@given(events, st.booleans())
def test_a_line_says_the_same(event: AuditEvent, encoded: bool) -> None:
    if encoded and event.proof is not None:
        event = replace(event, proof=Encoded(event.proof))
    line = event.to_line()
    assert json.loads(line) == event.to_json()
    assert b"\n" not in line


def test_what_is_absent_is_not_written() -> None:
    assert EVENT.to_json() == {
        "at": 1,
        "time": "2026-01-01T00:00:00.000Z",
        "sandbox": "s1",
        "action": "inject",
        "road": "forward",
        "request": 7,
        "headers": ["Authorization"],
    }


def test_texts_are_bounded() -> None:
    """A client chooses paths and names: a log line must not grow with them."""
    long = AuditEvent(1, "", "s1", "deny", "dns", host="a" * 100_000)
    assert len(json.dumps(long.to_json())) < 3000
    assert json.loads(long.to_line()) == long.to_json()


@pytest.mark.parametrize(
    "change",
    [
        {"action": "permit"},
        {"action": None},
        {"road": "tunnel"},
        {"at": "1"},
        {"at": True},
        {"port": "80"},
        {"host": 1},
        {"headers": "Authorization"},
        {"headers": [1]},
        {"seconds": "1"},
        {"proof": "yes"},
        {"more": 1},
    ],
)
def test_any_other_shape_is_an_error(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="audit event"):
        AuditEvent.from_json({**EVENT.to_json(), **change})


@pytest.mark.parametrize("data", [None, [], "x", {}, {"at": 1}])
def test_what_is_no_event_is_an_error(data: object) -> None:
    with pytest.raises(ValueError, match="audit event"):
        AuditEvent.from_json(data)
