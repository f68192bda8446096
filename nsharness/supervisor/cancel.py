"""Giving up what runs in a sandbox before its time is over."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator


class Cancel:
    """Given once, by any thread, and for good; whoever waits for the end of what runs is woken up."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._given = False
        self._wake: Callable[[], None] | None = None

    @property
    def given(self) -> bool:
        """Whether to end, or not to begin."""
        return self._given

    def give(self) -> None:
        """Let it end, or not begin."""
        with self._lock:
            self._given = True
            if self._wake is not None:
                self._wake()

    @contextlib.contextmanager
    def waking(self, wake: Callable[[], None]) -> Iterator[None]:
        """``wake`` is called, by the thread that gives it, if that is within the block; at once if it has
        been given."""
        with self._lock:
            self._wake = wake
            if self._given:
                wake()
        try:
            yield
        finally:
            with self._lock:
                self._wake = None
