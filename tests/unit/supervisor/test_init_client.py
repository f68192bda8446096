"""The supervisor's side of a sandbox's PID 1, with the other side played by the test."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from nsharness.errors import NsharnessError
from nsharness.linux import fds
from nsharness.supervisor.hub import Hub
from nsharness.supervisor.init import InitClient, Process
from tests.support.waiting import DEADLINE


class FakeInit:
    """Answers what the test tells it to."""

    def __init__(self, hub: Hub) -> None:
        ours, self.sock = fds.message_pair()
        self.ended = threading.Event()
        self.client = InitClient(hub, ours, self.ended.set)
        self.requests: list[dict[str, Any]] = []

    def receive(self) -> dict[str, Any]:
        request, descriptors = fds.receive(self.sock)
        fds.close_all(descriptors)
        assert request is not None
        self.requests.append({**request, "descriptors": len(descriptors)})
        return request

    def answer(self, **reply: object) -> dict[str, Any]:
        request = self.receive()
        fds.send(self.sock, {"reply_to": request["tag"], **reply})
        return request

    def serve(self, **reply: object) -> threading.Thread:
        thread = threading.Thread(target=self.answer, kwargs=reply)
        thread.start()
        return thread


@pytest.fixture
def init() -> Iterator[FakeInit]:
    errors: list[BaseException] = []
    with Hub(errors.append) as hub:
        made = FakeInit(hub)
        with made.sock:
            yield made
        made.client.close()
    assert not errors


def spawned(init: FakeInit, **options: Any) -> Process:
    thread = init.serve(event="spawned", pid=2)
    process = init.client.spawn(["true"], [], **options)
    thread.join()
    return process


def test_a_program_is_started_with_its_descriptors_and_environment(init: FakeInit) -> None:
    reading, writing = os.pipe()
    thread = init.serve(event="spawned", pid=7)
    process = init.client.spawn(["echo", "x"], [reading, writing], env={"A": "b"}, cwd="/tmp")
    thread.join()
    (request,) = init.requests
    assert (request["argv"], request["env"], request["cwd"], request["descriptors"]) == (
        ["echo", "x"],
        {"A": "b"},
        "/tmp",
        2,
    )
    assert process.pid == 7
    os.close(reading)
    os.close(writing)


@pytest.mark.parametrize(("number", "code"), [(2, 127), (13, 126), (8, 126), (110, 125)])
def test_a_program_that_cannot_be_started_has_the_exit_code_that_shells_use(
    init: FakeInit, number: int, code: int
) -> None:
    thread = init.serve(event="failed", errno=number, why="why")
    with pytest.raises(NsharnessError, match="cannot run 'true' in the sandbox: why") as raised:
        init.client.spawn(["true"], [])
    thread.join()
    assert raised.value.exit_code == code


def test_no_program_at_all_is_an_error_here_already(init: FakeInit) -> None:
    with pytest.raises(NsharnessError, match="no program is named"):
        init.client.spawn([], [])


def test_arguments_that_do_not_fit_a_message_are_an_error_and_not_a_crash(init: FakeInit) -> None:
    with pytest.raises(NsharnessError, match="too large") as raised:
        init.client.spawn(["true", "x" * 100_000], [])
    assert raised.value.exit_code == 126


def test_the_end_of_a_program_is_told_once(init: FakeInit) -> None:
    statuses: list[int] = []
    process = spawned(init, on_exit=statuses.append)
    fds.send(init.sock, {"event": "exit", "id": process.id, "status": 3})
    assert process.ended.wait(DEADLINE)
    init.sock.close()
    assert init.ended.wait(DEADLINE)
    assert (process.status, statuses) == (3, [3])


def test_when_the_sandbox_ends_every_program_was_killed(init: FakeInit) -> None:
    processes = [spawned(init), spawned(init)]
    init.sock.close()
    for process in processes:
        assert process.ended.wait(DEADLINE)
        assert process.status == -signal.SIGKILL
    assert init.ended.wait(DEADLINE)
    with pytest.raises(NsharnessError, match="the sandbox has ended"):
        init.client.spawn(["true"], [])


def test_an_end_during_the_start_is_told_by_the_error_alone(init: FakeInit) -> None:
    def leave() -> None:
        init.receive()
        init.sock.close()

    thread = threading.Thread(target=leave)
    thread.start()
    with pytest.raises(NsharnessError, match="the sandbox has ended"):
        init.client.spawn(["true"], [])
    thread.join()


def test_signals_to_a_program_that_has_ended_are_no_error(init: FakeInit) -> None:
    process = spawned(init)
    init.sock.close()
    assert process.ended.wait(DEADLINE)
    init.client.signal(process, signal.SIGTERM)
    init.client.kill_newer(process)


def test_an_exit_of_something_unknown_is_ignored(init: FakeInit) -> None:
    fds.send(init.sock, {"event": "exit", "id": "p99", "status": 0})
    assert not spawned(init).ended.is_set()
