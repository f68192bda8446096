"""A box without a sandbox, for tests of what is around it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.support.waiting import DEADLINE
from tests.unit.agent.fakes import FakeShell


@dataclass(slots=True)
class FakeBox:
    """Files are in a dictionary; what there is not, raises ``missing``."""

    shell: FakeShell = field(default_factory=FakeShell)
    files: dict[str, bytes] = field(default_factory=dict)
    missing: Exception = field(default_factory=lambda: OSError(5, "Input/output error"))

    def read(self, path: str, limit: int = 1_000_000) -> bytes:
        if path not in self.files:
            raise self.missing
        return self.files[path][:limit]

    def write(self, path: str, data: bytes) -> None:
        self.files[path] = data

    def one_call(self) -> tuple[FakeBox, Callable[[], None]]:
        return self, lambda: None


@dataclass(slots=True)
class Held:
    """Commands begin and go on until ``end`` is called; counts how many do so at the same time."""

    begun: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    over: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    now: int = 0
    most: int = 0

    def hold(self) -> None:
        with self._lock:
            self.now += 1
            self.most = max(self.most, self.now)
        self.begun.release()
        assert self.over.wait(DEADLINE)
        with self._lock:
            self.now -= 1
