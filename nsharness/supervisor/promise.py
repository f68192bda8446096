"""A result that another thread will have: ``concurrent.futures.Future`` without all that comes with it."""

from __future__ import annotations

import threading


class Promise[T]:
    """Kept once, by ``keep`` or ``fail``; any number of threads may wait for it."""

    __slots__ = ("_error", "_kept", "_value")

    def __init__(self) -> None:
        self._kept = threading.Lock()
        self._kept.acquire()
        self._value: T
        self._error: BaseException | None = None

    def keep(self, value: T) -> None:
        """This is the result."""
        self._value = value
        self._kept.release()

    def fail(self, error: BaseException) -> None:
        """There is none: whoever waits gets the exception."""
        self._error = error
        self._kept.release()

    def result(self, timeout: float | None = None) -> T:
        """Wait for it; ``TimeoutError`` after ``timeout`` seconds."""
        if not self._kept.acquire(timeout=-1 if timeout is None else timeout):
            raise TimeoutError
        self._kept.release()
        if self._error is not None:
            raise self._error
        return self._value
