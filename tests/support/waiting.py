"""Waiting for something with a deadline, without sleeping longer than it takes."""

from __future__ import annotations

import select
import time
from collections.abc import Callable

DEADLINE = 10.0
"""Seconds; ten times what anything here should take on a busy machine."""


def eventually[T](predicate: Callable[[], T], timeout: float = DEADLINE, what: str = "") -> T:
    """The first true value of ``predicate``, asked again and again; AssertionError after ``timeout``."""
    end = time.monotonic() + timeout
    pause = 0.001
    while not (value := predicate()):
        left = end - time.monotonic()
        assert left > 0, f"not within {timeout} s: {what or getattr(predicate, '__name__', predicate)}"
        select.select([], [], [], min(pause, left))
        pause = min(pause * 2, 0.05)
    return value


def readable(descriptor: int, timeout: float = DEADLINE) -> bool:
    """Whether ``descriptor`` (a pipe, a socket, a pidfd) becomes readable in time."""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(timeout * 1000))
