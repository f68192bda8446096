"""The supervisor's end of a message socket."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from nsharness.errors import NsharnessError
from nsharness.linux import fds
from nsharness.supervisor.channel import Channel, Message
from nsharness.supervisor.hub import Hub
from tests.support.descriptors import open_now
from tests.support.waiting import DEADLINE


class End:
    """The other side, and what our side made of it."""

    def __init__(self, hub: Hub) -> None:
        ours, self.theirs = fds.message_pair()
        self.events: list[Message] = []
        self.ended = threading.Event()
        self.hub = hub
        self.channel = Channel(hub, ours, self._on_event, self.ended.set)

    def _on_event(self, message: Message, descriptors: list[int]) -> None:
        fds.close_all(descriptors)
        self.events.append(message)

    def answer(self, **reply: object) -> Message:
        request, descriptors = fds.receive(self.theirs)
        fds.close_all(descriptors)
        assert request is not None
        fds.send(self.theirs, {"reply_to": request["tag"], **reply})
        return request


@pytest.fixture
def errors() -> list[BaseException]:
    return []


@pytest.fixture
def end(errors: list[BaseException]) -> Iterator[End]:
    with Hub(errors.append) as hub:
        made = End(hub)
        with made.theirs:
            yield made
        made.channel.close()


def later(action: object, *arguments: object) -> threading.Thread:
    assert callable(action)
    thread = threading.Thread(target=action, args=arguments)
    thread.start()
    return thread


def test_a_request_gets_its_own_answer_among_events(end: End) -> None:
    def serve() -> None:
        fds.send(end.theirs, {"event": "log"})
        end.answer(event="done", value=7)

    thread = later(serve)
    reply, descriptors = end.channel.request({"op": "ask"})
    thread.join()
    assert (reply["value"], descriptors) == (7, [])
    assert end.events == [{"event": "log"}]


def test_answers_may_come_in_any_order(end: End) -> None:
    results: dict[int, object] = {}

    def ask(number: int) -> None:
        results[number] = end.channel.request({"op": "ask", "number": number})[0]["number"]

    threads = [later(ask, number) for number in range(8)]
    requests = [fds.receive(end.theirs)[0] for _ in threads]
    for request in reversed(requests):
        assert request is not None
        fds.send(end.theirs, {"reply_to": request["tag"], "number": request["number"]})
    for thread in threads:
        thread.join(DEADLINE)
    assert results == {number: number for number in range(8)}


def test_an_answer_that_is_an_error_is_raised_and_its_descriptors_are_closed(end: End) -> None:
    def serve() -> None:
        request, _ = fds.receive(end.theirs)
        assert request is not None
        with Path(os.devnull).open() as null:
            reply = {
                "reply_to": request["tag"],
                "event": "error",
                "what": "no",
                "why": "because",
                "hint": "do",
            }
            fds.send(end.theirs, reply, [null.fileno()])

    before = open_now()
    thread = later(serve)
    with pytest.raises(NsharnessError, match=r"no: because \(do\)"):
        end.channel.request({"op": "ask"})
    thread.join()
    assert open_now() == before


def test_an_end_instead_of_an_answer_is_an_end_of_file(end: End) -> None:
    def leave() -> None:
        fds.receive(end.theirs)
        end.theirs.close()

    thread = later(leave)
    with pytest.raises(EOFError):
        end.channel.request({"op": "ask"})
    thread.join()
    assert end.ended.wait(DEADLINE)


def test_after_the_end_a_request_does_not_wait(end: End) -> None:
    end.theirs.close()
    assert end.ended.wait(DEADLINE)
    with pytest.raises(EOFError):
        end.channel.request({"op": "ask"})


def test_no_answer_in_time_is_an_error_that_names_the_request(end: End) -> None:
    with pytest.raises(NsharnessError, match="no answer to ask"):
        end.channel.request({"op": "ask"}, timeout=0.01)


def test_an_answer_that_comes_too_late_is_an_event(end: End) -> None:
    with pytest.raises(NsharnessError):
        end.channel.request({"op": "ask"}, timeout=0.01)
    end.answer(event="done")
    end.hub.flush()
    assert [message["event"] for message in end.events] == ["done"]


@pytest.mark.parametrize("data", [b"{", b"[]", b"\xff", b"[" * 60_000])
def test_a_peer_that_makes_no_sense_counts_as_gone(
    end: End, errors: list[BaseException], data: bytes
) -> None:
    """K12: a channel that only fell silent would leave requests waiting and nobody informed."""
    thread = later(lambda: (fds.receive(end.theirs), end.theirs.send(data)))
    with pytest.raises(EOFError):
        end.channel.request({"op": "ask"}, timeout=DEADLINE)
    thread.join()
    assert end.ended.wait(DEADLINE)
    assert errors == []


def test_a_peer_that_reads_nothing_does_not_block_us(end: End) -> None:
    def fill() -> None:
        while True:
            end.channel.send({"fill": "x" * 50_000})

    with pytest.raises(BlockingIOError):
        fill()
    with pytest.raises(NsharnessError, match="requests pile up"):
        end.channel.request({"op": "ask", "fill": "x" * 50_000})


def test_events_of_a_channel_are_handled_by_their_time(end: End) -> None:
    held, release = threading.Event(), threading.Event()

    def hold() -> None:
        held.set()
        release.wait(DEADLINE)

    thread = later(end.hub.call, hold)
    assert held.wait(DEADLINE)
    for moment in (30, 10, 20):
        fds.send(end.theirs, {"at": moment})
    release.set()
    thread.join()
    end.hub.flush()
    assert [message["at"] for message in end.events] == [10, 20, 30]


def test_the_end_comes_after_all_events(end: End) -> None:
    order: list[str] = []
    ours, theirs = fds.message_pair()
    channel = Channel(
        end.hub, ours, lambda message, _: order.append(str(message["n"])), lambda: order.append("end")
    )
    for number in range(5):
        fds.send(theirs, {"n": number, "at": 2**62})
    theirs.close()
    end.hub.flush()
    assert order == ["0", "1", "2", "3", "4", "end"]
    channel.close()


def test_closing_frees_whoever_waits_and_can_be_repeated(end: End) -> None:
    outcome: list[BaseException] = []

    def ask() -> None:
        try:
            end.channel.request({"op": "ask"})
        except EOFError as error:
            outcome.append(error)

    thread = later(ask)
    fds.receive(end.theirs)
    end.channel.close()
    end.channel.close()
    thread.join(DEADLINE)
    assert len(outcome) == 1


def test_closing_is_the_end_for_the_other_side(end: End) -> None:
    end.channel.close()
    end.theirs.settimeout(DEADLINE)
    assert fds.receive(end.theirs) == (None, [])


def test_descriptors_reach_who_asked(end: End) -> None:
    def serve() -> None:
        request, _ = fds.receive(end.theirs)
        assert request is not None
        with socket.socket() as sock:
            fds.send(end.theirs, {"reply_to": request["tag"]}, [sock.fileno()])

    thread = later(serve)
    _, descriptors = end.channel.request({"op": "ask"})
    thread.join()
    (received,) = descriptors
    assert open_now()[str(received)].startswith("socket:")
    os.close(received)
