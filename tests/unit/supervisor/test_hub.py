"""The one thread that reads every channel of a run."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator

import pytest

from nsharness.supervisor.hub import Action, Hub
from tests.support.descriptors import open_now
from tests.support.waiting import DEADLINE


@pytest.fixture
def errors() -> list[BaseException]:
    return []


@pytest.fixture
def hub(errors: list[BaseException]) -> Iterator[Hub]:
    with Hub(errors.append) as running:
        yield running


class Source:
    """A pipe that the hub watches; what is read from it becomes actions."""

    def __init__(self, hub: Hub, act: Callable[[bytes], list[Action]]) -> None:
        self.hub = hub
        self.act = act
        self.reading, self.writing = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)

    def __enter__(self) -> Source:
        self.hub.add(self.reading, self.read)
        return self

    def read(self) -> list[Action]:
        return self.act(os.read(self.reading, 4096))

    def write(self, data: bytes) -> None:
        os.write(self.writing, data)

    def __exit__(self, *_: object) -> None:
        self.hub.remove(self.reading)
        os.close(self.reading)
        os.close(self.writing)


def held(hub: Hub) -> tuple[threading.Event, threading.Thread]:
    """Keep the hub busy until the event is set, so that several things wait for it."""
    entered, release = threading.Event(), threading.Event()

    def hold() -> None:
        entered.set()
        assert release.wait(DEADLINE)

    thread = threading.Thread(target=hub.call, args=(hold,))
    thread.start()
    assert entered.wait(DEADLINE)
    return release, thread


def test_what_is_ready_together_is_handled_in_the_order_of_time(hub: Hub) -> None:
    seen: list[str] = []

    def stamped(data: bytes) -> list[Action]:
        return [(int(word), lambda word=word: seen.append(word)) for word in data.decode().split()]  # type: ignore[misc]

    with Source(hub, stamped) as one, Source(hub, stamped) as other:
        release, thread = held(hub)
        one.write(b"10 30 50")
        other.write(b"40 20")
        release.set()
        thread.join()
        hub.flush()
    assert seen == ["10", "20", "30", "40", "50"]


def test_what_happened_at_the_same_time_keeps_its_order(hub: Hub) -> None:
    seen: list[int] = []
    with Source(hub, lambda data: [(0, lambda byte=byte: seen.append(byte)) for byte in data]) as source:  # type: ignore[misc]
        source.write(bytes(range(100)))
        hub.flush()
    assert seen == list(range(100))


def test_a_flush_returns_when_all_that_had_come_is_handled(hub: Hub) -> None:
    for _ in range(200):
        seen: list[bytes] = []
        with Source(hub, lambda data: [(0, lambda: seen.append(data))]) as source:  # noqa: B023
            source.write(b"x")
            hub.flush()
            assert seen == [b"x"]


def test_a_flush_handles_what_an_action_added(hub: Hub) -> None:
    seen: list[bytes] = []
    with (
        Source(hub, lambda data: [(0, lambda: seen.append(data))]) as second,
        Source(hub, lambda data: [(0, lambda: second.write(data))]) as first,
    ):
        first.write(b"x")
        hub.flush()
        assert seen == [b"x"]


def test_an_error_in_a_reader_silences_that_one_alone(hub: Hub, errors: list[BaseException]) -> None:
    seen: list[bytes] = []

    def fail(_: bytes) -> list[Action]:
        raise ValueError("broken")

    with Source(hub, fail) as bad, Source(hub, lambda data: [(0, lambda: seen.append(data))]) as good:
        bad.write(b"x")
        good.write(b"y")
        hub.flush()
        good.write(b"z")
        hub.flush()
        assert b"".join(seen) == b"yz"
        assert [str(error) for error in errors] == ["broken"]


def test_an_error_in_an_action_stops_neither_the_others_nor_its_source(
    hub: Hub, errors: list[BaseException]
) -> None:
    seen: list[int] = []

    def act(byte: int) -> None:
        if byte == ord("!"):
            raise ValueError("broken")
        seen.append(byte)

    with Source(hub, lambda data: [(0, lambda byte=byte: act(byte)) for byte in data]) as source:  # type: ignore[misc]
        source.write(b"a!b")
        hub.flush()
        source.write(b"c")
        hub.flush()
    assert bytes(seen) == b"abc"
    assert len(errors) == 1


def test_a_reader_that_removes_itself_and_fails_stops_nobody_else(
    hub: Hub, errors: list[BaseException]
) -> None:
    seen: list[bytes] = []
    with Source(hub, lambda data: [(0, lambda: seen.append(data))]) as good:
        with Source(hub, lambda _: []) as bad:

            def fail(_: bytes) -> list[Action]:
                hub.remove(bad.reading)
                raise ValueError("broken")

            bad.act = fail
            bad.write(b"x")
            hub.flush()
        good.write(b"y")
        hub.flush()
    assert seen == [b"y"]
    assert len(errors) == 1


def test_a_removed_reader_does_not_run_again(hub: Hub) -> None:
    seen: list[bytes] = []
    with Source(hub, lambda data: [(0, lambda: seen.append(data))]) as source:
        hub.remove(source.reading)
        source.write(b"x")
        hub.flush()
    assert seen == []


def test_a_reader_removed_by_another_in_the_same_pass_does_not_run(hub: Hub) -> None:
    seen: list[str] = []
    sources: list[Source] = []

    def act(name: str) -> Callable[[bytes], list[Action]]:
        def run(_: bytes) -> list[Action]:
            seen.append(name)
            for source in sources:
                hub.remove(source.reading)
            return []

        return run

    with Source(hub, act("one")) as one, Source(hub, act("other")) as other:
        sources += [one, other]
        release, thread = held(hub)
        one.write(b"x")
        other.write(b"x")
        release.set()
        thread.join()
        hub.flush()
    assert len(seen) == 1


def test_removing_twice_or_what_was_never_there_is_no_error(hub: Hub) -> None:
    with Source(hub, lambda _: []) as source:
        hub.remove(source.reading)
        hub.remove(source.reading)
        hub.remove(source.writing)


def test_when_remove_returns_the_reader_is_not_running(hub: Hub) -> None:
    entered, release, removed = threading.Event(), threading.Event(), threading.Event()

    def slow(_: bytes) -> list[Action]:
        entered.set()
        assert release.wait(DEADLINE)
        assert not removed.is_set()
        return []

    with Source(hub, slow) as source:
        source.write(b"x")
        assert entered.wait(DEADLINE)

        def remove() -> None:
            hub.remove(source.reading)
            removed.set()

        thread = threading.Thread(target=remove)
        thread.start()
        assert not removed.is_set()
        release.set()
        thread.join(DEADLINE)
        assert removed.is_set()


def test_a_call_gives_its_result_and_its_error_to_the_caller(hub: Hub) -> None:
    assert hub.call(threading.current_thread) is not threading.current_thread()
    with pytest.raises(ZeroDivisionError):
        hub.call(lambda: 1 // 0)


def test_calls_and_changes_are_possible_in_the_hubs_own_thread(hub: Hub) -> None:
    def inside() -> int:
        hub.flush()
        return hub.call(lambda: 7)

    assert hub.call(inside) == 7


def test_after_the_end_a_call_is_refused_and_not_waited_for(errors: list[BaseException]) -> None:
    with Hub(errors.append) as hub:
        pass
    with pytest.raises(RuntimeError, match="stopped"):
        hub.flush()


def test_nobody_who_was_let_in_before_the_end_waits_for_ever(errors: list[BaseException]) -> None:
    for _ in range(50):
        with Hub(errors.append) as hub:
            release, thread = held(hub)
            outcomes: list[object] = []

            def ask(hub: Hub = hub, outcomes: list[object] = outcomes) -> None:
                try:
                    outcomes.append(hub.call(lambda: 1))
                except RuntimeError:
                    outcomes.append(None)

            other = threading.Thread(target=ask)
            other.start()
            release.set()
        other.join(DEADLINE)
        thread.join(DEADLINE)
        assert outcomes in ([1], [None])


def test_nothing_is_left_open_after_the_end(errors: list[BaseException]) -> None:
    before = open_now()
    with Hub(errors.append):
        pass
    assert open_now() == before
