"""What the proxy says about itself: events to the supervisor, never the content of a message.

The engine, asyncio and OpenSSL put what came over the wire into exceptions and log lines. So of an
exception only its type and its place are told, and of a log record only who wrote it (``records``).
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from pathlib import PurePath
from types import TracebackType
from typing import Any, Literal

Emit = Callable[[dict[str, Any]], None]
Level = Literal["info", "warning", "error"]


class Report:
    """Turns what happens into log events."""

    def __init__(self, emit: Emit) -> None:
        self._emit = emit

    def log(self, level: Level, text: str) -> None:
        """A line for the person who runs this. The text is ours, and has nothing of a request in it."""
        self._emit({"event": "log", "level": level, "text": text})

    def failure(self, what: str, error: BaseException | None) -> None:
        """A bug, told without anything that could quote a request."""
        self.log("error", f"{what}: {describe(error)}")

    def capture(self) -> None:
        """Send everything through here that would otherwise be printed."""

        def uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
            self.failure("uncaught", error)

        sys.excepthook = uncaught
        sys.unraisablehook = lambda raised: self.failure("unraisable", raised.exc_value)
        threading.excepthook = lambda raised: self.failure("a thread failed", raised.exc_value)


def describe(error: BaseException | None) -> str:
    """The type of an exception and where it was raised."""
    if error is None:
        return "no exception"
    # By hand: the traceback module would read the source file, which may be out of reach by now.
    trace, place = error.__traceback__, ""
    while trace is not None:
        place = f" at {PurePath(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}"
        trace = trace.tb_next
    return f"{type(error).__name__}{place}"
