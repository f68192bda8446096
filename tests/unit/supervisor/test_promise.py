"""A result that comes from another thread."""

from __future__ import annotations

import threading

import pytest

from nsharness.supervisor.promise import Promise
from tests.support.waiting import DEADLINE


def test_all_who_wait_get_what_was_kept() -> None:
    promise: Promise[int] = Promise()
    got: list[int] = []
    waiting = [threading.Thread(target=lambda: got.append(promise.result(DEADLINE))) for _ in range(3)]
    for thread in waiting:
        thread.start()
    promise.keep(7)
    for thread in waiting:
        thread.join(DEADLINE)
    assert got == [7, 7, 7]
    assert promise.result() == 7


def test_whoever_waits_for_what_failed_gets_the_error() -> None:
    promise: Promise[None] = Promise()
    promise.fail(EOFError("gone"))
    for _ in range(2):
        with pytest.raises(EOFError, match="gone"):
            promise.result(DEADLINE)


def test_nobody_waits_longer_than_they_want() -> None:
    with pytest.raises(TimeoutError):
        Promise[None]().result(0.001)
