"""One thread that reads every channel of a run, so that nobody who writes to us ever waits long.

Events of different processes that are ready together are handled in the order of their time stamps
(CLOCK_MONOTONIC is the same for all of them), so that a log reads as things happened.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import threading
from collections.abc import Callable, Iterable
from typing import Final

from nsharness.supervisor.promise import Promise

type Action = tuple[int, Callable[[], None]]
"""When something happened (nanoseconds of CLOCK_MONOTONIC, 0 for at once), and what to do about it."""

type Reader = Callable[[], Iterable[Action]]
"""Called in the hub's thread when its descriptor is readable; must not block, reads all there is."""

_MAX_PASSES: Final = 1000


class Hub:
    """Descriptors and their readers. Use it as a context manager; it is then running."""

    def __init__(self, on_error: Callable[[BaseException], None]) -> None:
        self._on_error = on_error
        self._selector = selectors.DefaultSelector()
        self._lock = threading.Lock()
        self._posted: list[Callable[[], None]] = []
        self._wake_read, self._wake_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._selector.register(self._wake_read, selectors.EVENT_READ, None)
        self._thread = threading.Thread(target=self._run, name="nsharness-hub", daemon=True)
        self._stopping = False

    def __enter__(self) -> Hub:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._stopping = True
            self._wake()
        self._thread.join()
        self._selector.close()
        os.close(self._wake_read)
        os.close(self._wake_write)

    def add(self, descriptor: int, reader: Reader) -> None:
        """Watch a descriptor from now on."""
        self.call(lambda: self._selector.register(descriptor, selectors.EVENT_READ, reader))

    def remove(self, descriptor: int) -> None:
        """Watch it no more. When this returns its reader is not running and will not run again."""

        def unregister() -> None:
            with contextlib.suppress(KeyError, ValueError):
                self._selector.unregister(descriptor)

        self.call(unregister)

    def call[T](self, action: Callable[[], T]) -> T:
        """Do something in the hub's thread and wait for its result."""
        if threading.current_thread() is self._thread:
            return action()
        result: Promise[T] = Promise()

        def run() -> None:
            try:
                result.keep(action())
            except BaseException as error:  # noqa: BLE001 - it is raised in the caller's thread
                result.fail(error)

        with self._lock:
            if self._stopping:
                raise RuntimeError("the hub has stopped")
            self._posted.append(run)
            # Under the lock: afterwards the pipe may be closed, and its number be somebody else's.
            self._wake()
        return result.result()

    def flush(self) -> None:
        """Return when everything that had reached us before the call has been handled."""
        self.call(self._drain)

    def _drain(self) -> None:
        for _ in range(_MAX_PASSES):
            if not self._handle(self._selector.select(0)):
                return

    def _wake(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.write(self._wake_write, b"\0")

    def _run(self) -> None:
        while not self._stopping:
            self._handle(self._selector.select())
            with self._lock:
                posted, self._posted = self._posted, []
            for action in posted:
                action()
        # Whoever was let in before the end is not left waiting for an answer.
        with self._lock:
            posted, self._posted = self._posted, []
        for action in posted:
            action()

    def _handle(self, ready: list[tuple[selectors.SelectorKey, int]]) -> bool:
        """Read whatever is ready, then act in order of time. False when nothing but a wake-up was there."""
        actions: list[Action] = []
        for key, _ in ready:
            if key.data is None:
                os.read(self._wake_read, 4096)
                continue
            if self._selector.get_map().get(key.fd) is not key:
                continue  # A reader before it in this pass has removed it.
            try:
                actions.extend(key.data())
            except Exception as error:  # noqa: BLE001 - one bad channel must not silence the others
                self.remove(key.fd)
                self._on_error(error)
        for _, act in sorted(actions, key=lambda action: action[0]):
            try:
                act()
            except Exception as error:  # noqa: BLE001
                self._on_error(error)
        return any(key.data is not None for key, _ in ready)
