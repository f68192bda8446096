"""Feeding one descriptor and emptying others at the same time."""

from __future__ import annotations

import os
import threading
import time

import pytest

from nsharness.supervisor.pump import pump
from tests.support.waiting import DEADLINE


class Program:
    """The other ends of the pipes, used by a thread in place of a program."""

    def __init__(self) -> None:
        self.stdin, self.sink = os.pipe()
        self.source, self.stdout = os.pipe()
        self.source2, self.stderr = os.pipe()
        self.ended, self._end = os.pipe()
        self.open = {self.stdin, self.source, self.stdout, self.source2, self.stderr, self.ended, self._end}

    def close(self, *descriptors: int) -> None:
        for descriptor in descriptors:
            if descriptor in self.open:
                self.open.discard(descriptor)
                os.close(descriptor)

    def exit(self, _: object = None) -> None:
        self.close(self.stdin, self.stdout, self.stderr, self._end)

    def __enter__(self) -> Program:
        return self

    def __exit__(self, *_: object) -> None:
        self.close(*self.open)

    def pump(
        self, data: bytes = b"", timeout: float = DEADLINE, limit: int = 1 << 30
    ) -> tuple[list[bytes], bool]:
        return pump(self.sink, data, [self.source, self.source2], self.ended, timeout, limit)


def run(action: object) -> threading.Thread:
    assert callable(action)
    thread = threading.Thread(target=action, daemon=True)
    thread.start()
    return thread


def is_closed(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return True
    return False


def test_much_input_and_much_output_pass_each_other() -> None:
    data = os.urandom(3 << 20)
    with Program() as program:

        def echo() -> None:
            while chunk := os.read(program.stdin, 1 << 16):
                os.write(program.stdout, chunk)
            os.write(program.stderr, b"done")
            program.exit()

        run(echo)
        assert program.pump(data) == ([data, b"done"], True)


def test_input_is_closed_when_it_is_all_written() -> None:
    with Program() as program:
        run(lambda: program.exit(os.read(program.stdin, 10) + os.read(program.stdin, 10)))
        assert program.pump(b"x")[1]
        assert is_closed(program.sink)


def test_no_input_is_an_end_at_once() -> None:
    with Program() as program:
        run(lambda: program.exit(os.read(program.stdin, 10)))
        assert program.pump() == ([b"", b""], True)


def test_a_program_that_wants_no_input_ends_like_any_other() -> None:
    with Program() as program:
        program.close(program.stdin)
        run(lambda: program.exit(os.write(program.stdout, b"out")))
        assert program.pump(b"x" * (1 << 20)) == ([b"out", b""], True)
        assert is_closed(program.sink)


def test_of_each_output_the_limit_is_kept_and_the_rest_is_taken_away() -> None:
    with Program() as program:

        def write() -> None:
            for _ in range(100):
                os.write(program.stdout, b"x" * 10_000)
            program.exit()

        run(write)
        assert program.pump(limit=15_000) == ([b"x" * 15_000, b""], True)


def test_after_the_deadline_it_returns_what_has_come() -> None:
    with Program() as program:
        os.write(program.stdout, b"early")
        started = time.monotonic()
        assert program.pump(b"x" * (1 << 20), timeout=0.1) == ([b"early", b""], False)
        assert time.monotonic() - started < DEADLINE
        assert is_closed(program.sink)


def test_a_background_process_that_keeps_the_pipes_is_not_waited_for() -> None:
    with Program() as program:
        os.write(program.stdout, b"out")
        program.close(program._end)
        assert program.pump() == ([b"out", b""], True)


@pytest.mark.parametrize("ends", [True, False])
def test_a_writer_that_never_rests_delays_nothing(ends: bool) -> None:
    """Whoever fills the pipe faster than it is emptied must not keep the deadline from being seen."""
    with Program() as program:
        started = time.monotonic()

        def read(_: int, count: int) -> bytes:
            # As if every byte taken were replaced at once.
            assert time.monotonic() - started < 1, "reads without end"
            return bytes(count)

        with pytest.MonkeyPatch.context() as patch:
            os.write(program.stdout, b"x")
            patch.setattr("nsharness.supervisor.pump.os.read", read)
            if ends:
                program.close(program._end)
            assert program.pump(timeout=0.05, limit=10)[1] is ends
