"""A signal's handler runs at once, also when the signal interrupts nothing."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from nsharness.linux.signals import prompt_handlers
from tests.support.descriptors import open_now
from tests.support.waiting import DEADLINE


class Handled(BaseException):
    """Raised by the handler."""


def handler(*_: object) -> None:
    raise Handled


@pytest.fixture
def hangup() -> Iterator[None]:
    before = signal.signal(signal.SIGHUP, handler)
    yield
    signal.signal(signal.SIGHUP, before)


def seconds_until_handled(block: Callable[[float], object], longest: float) -> float:
    """How long a blocking call holds up a signal that reached another thread, as one may any time."""
    begun = time.monotonic()

    def elsewhere() -> None:
        select.select([], [], [], 0.05)  # the main thread is in its call by then; if not, this proves less
        signal.pthread_kill(threading.get_ident(), signal.SIGHUP)

    thread = threading.Thread(target=elsewhere)
    thread.start()
    with contextlib.suppress(Handled):
        block(longest)
        os.getppid()  # and one more instruction
    thread.join()
    return time.monotonic() - begun


def reading(seconds: float) -> None:
    """A read that nothing but the end of ``seconds`` or a signal ends."""
    source, sink = os.pipe()
    timer = threading.Timer(seconds, os.close, [sink])
    timer.start()
    try:
        os.read(source, 1)
    finally:
        timer.cancel()
        timer.join()
        os.close(source)
        with contextlib.suppress(OSError):
            os.close(sink)


CALLS: dict[str, Callable[[float], object]] = {
    "a read": reading,
    "an event": lambda seconds: threading.Event().wait(seconds),
    "a lock": lambda seconds: _held().acquire(timeout=seconds),
}


def _held() -> threading.Lock:
    lock = threading.Lock()
    lock.acquire()
    return lock


@pytest.mark.parametrize("call", CALLS)
def test_a_signal_that_interrupts_nothing_is_handled_at_once(call: str, hangup: None) -> None:
    with prompt_handlers():
        assert seconds_until_handled(CALLS[call], DEADLINE) < DEADLINE / 2


def test_without_it_the_handler_waits_for_the_call(hangup: None) -> None:
    """What this is about: otherwise the tests above could not fail."""
    assert seconds_until_handled(reading, 0.5) > 0.4


def test_everything_is_as_before_afterwards(hangup: None) -> None:
    before = threading.enumerate(), signal.getsignal(signal.SIGURG), open_now()
    with prompt_handlers():
        os.kill(os.getpid(), signal.SIGURG)
    after = threading.enumerate(), signal.getsignal(signal.SIGURG), open_now()
    assert before == after
    assert signal.set_wakeup_fd(-1) == -1


def test_a_handler_runs_once_for_each_signal() -> None:
    count: list[int] = []
    before = signal.signal(signal.SIGHUP, lambda *_: count.append(1))
    try:
        with prompt_handlers():
            for number in range(1, 20):
                os.kill(os.getpid(), signal.SIGHUP)
                assert len(count) == number
    finally:
        signal.signal(signal.SIGHUP, before)
