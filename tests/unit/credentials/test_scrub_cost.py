"""A hostile body costs one step per byte and no more: counted, not timed."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from nsharness.credentials.scrub import Scrubber
from nsharness.credentials.scrub_machine import Machine
from nsharness.credentials.scrub_search import Search, _Listed, _Searched
from nsharness.credentials.secret import Secret

pytestmark = pytest.mark.usefixtures("search")

TOKEN = "wiki_9aKdLm28fjQwXz7PbRt0YuVs3HcGn5Ei1oT"
SECRETS = {
    "token": TOKEN,
    "one letter": "a" * 40,
    "almost": "a" * 39 + "b",
    "period": "ab" * 20,
    "backslashes": "\\" * 40,
    "percent": "%25" * 13,
    "entities": "&#38;" * 8,
}
BODIES = {
    "beginnings": TOKEN[:-1].encode(),
    "first letters": b"w",
    "as": b"a",
    "abs": b"ab",
    "backslashes": b"\\",
    "percent": b"%",
    "percent 25": b"%25",
    "escapes": b"%61%62",
    "json": b"\\u0061\\u00",
    "slashes and u": b"\\\\\\\\u006",
    "entities": b"&#38;&#3",
    "hex": TOKEN.encode().hex().encode()[:-1],
    "base64": base64.b64encode(TOKEN.encode())[:-4],
}


@pytest.mark.slow
@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("secret", SECRETS)
@pytest.mark.parametrize("size", [1, 4096])
def test_each_byte_is_stepped_over_at_most_once(secret: str, body: str, size: int) -> None:
    data = (BODIES[body] * 4000)[: 4000 if size == 1 else 20000]
    stream = Scrubber([Secret(SECRETS[secret])]).stream()
    for start in range(0, len(data), size):
        stream.feed(data[start : start + size])
    stream.finish()
    assert stream.steps <= len(data)


def test_text_without_beginnings_costs_no_steps_at_all() -> None:
    stream = Scrubber([Secret(TOKEN)]).stream()
    for _ in range(50):
        stream.feed(b'{"text": "nothing to be seen here, \\"quoted\\" and 100% safe & sound"}\n' * 50)
    assert stream.steps == 0


def test_each_byte_is_searched_once_however_dense_the_places(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    for kind in (_Listed, _Searched):

        def counted(self: Any, position: int, real: Any = kind.after) -> Any:
            asked.append(position)
            return real(self, position)

        monkeypatch.setattr(kind, "after", counted)
    stream = Scrubber([Secret(TOKEN)]).stream()
    stream.feed(b"%39%61%4b%6" * 20000 + b"\n")
    # The automaton stays on: one question for some kilobytes, not one for each escape.
    assert 1 < len(asked) < 60
    assert asked == sorted(set(asked))


def test_kept_states_are_bounded_and_dropping_them_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    body = (b"a" * 300 + b"%61%6" + b"\\u0061" * 30 + b"b") * 5
    expected = Scrubber([Secret("a" * 64)]).text(body)
    monkeypatch.setattr("nsharness.credentials.scrub_machine._MOST_THREADS", 500)
    scrubber = Scrubber([Secret("a" * 64)])
    assert scrubber.text(body) == expected
    machine = scrubber._machine
    assert machine._threads <= 500 + 100 * len(machine._rows)
    assert len(machine._known) < 500
    reachable = {id(machine.root): machine.root}
    waiting = [machine.root]
    while waiting:
        for state in waiting.pop().next.values():
            if id(state) not in reachable:
                reachable[id(state)] = state
                waiting.append(state)
    assert sum(len(state.threads) for state in reachable.values()) <= 500 + 100 * len(machine._rows)


def test_a_state_has_no_more_threads_than_places() -> None:
    machine = Machine([(b"a",) * 50])
    state = machine.root
    for byte in (b"%61a%2561\\u0061" * 40)[:400]:
        state = machine.step(state, byte)
        assert len(state.threads) <= 50 * 40


@pytest.mark.parametrize(
    "spelled", [b"wiki_9aKdLm28fjQ", b"WIKI_9akdlm28FJq", b"w%69", b"wiki_9aKdLm28fj\\\\\\\\u0051"]
)
def test_the_search_names_the_beginning_or_a_place_shortly_before(spelled: bytes) -> None:
    from nsharness.credentials.scrub_forms import forms_of

    block = b"." * 500 + spelled
    begin, seen = Search(forms_of([TOKEN])).over(block, 0).after(0)
    assert 470 < begin <= 500 <= seen < len(block)
