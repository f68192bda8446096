"""Giving up one command of a shell before its time is over."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator


class Cancel:
    """Given once, by any thread, and for good; whoever carries out the command is woken up."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._given = False
        self._waiting: threading.Condition | None = None

    @property
    def given(self) -> bool:
        """Whether the command is to end."""
        return self._given

    def give(self) -> None:
        """Let the command end, or not begin."""
        with self._lock:
            self._given = True
            waiting = self._waiting
        if waiting is not None:
            with waiting:
                waiting.notify_all()

    @contextlib.contextmanager
    def waking(self, condition: threading.Condition) -> Iterator[None]:
        """Within the block ``condition`` is notified; whoever waits for it looks at ``given`` before."""
        with self._lock:
            self._waiting = condition
        try:
            yield
        finally:
            with self._lock:
                self._waiting = None
