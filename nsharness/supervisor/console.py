"""The lines that a person sees of a run, one line an event, each with the name of its part."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterable
from typing import Protocol, TextIO


class Reporter(Protocol):
    """Where the parts of a run report what they do."""

    def line(self, part: str, text: str) -> None: ...
    def plain(self, text: str) -> None: ...


class Console:
    """Writes to a stream; a reader that has gone away does not disturb the run."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stdout
        self._lock = threading.Lock()

    def line(self, part: str, text: str) -> None:
        """``[part] text``, the texts of all parts beginning in one column."""
        label = f"[{part}]"
        text = printable(text, keep="")
        # A command and its result stand right behind the label.
        close = part == "sandbox" and text.startswith(("$", " "))
        self.plain(f"{label} {text}" if close else f"{label:<15} {text}")

    def plain(self, text: str) -> None:
        """Text as it is, control characters but newlines shown as escapes (K27)."""
        with self._lock:
            try:
                print(self._encodable(printable(text)), file=self._stream, flush=True)
            except BrokenPipeError:
                return

    def _encodable(self, text: str) -> str:
        """What the stream's encoding lacks (the arrow, in Latin-1) as escapes; it must not end the run."""
        encoding = getattr(self._stream, "encoding", None) or "utf-8"
        return text.encode(encoding, "backslashreplace").decode(encoding)


class Silent:
    """Reports to nobody: what a library user wants."""

    def line(self, part: str, text: str) -> None: ...
    def plain(self, text: str) -> None: ...


def printable(text: str, keep: str = "\n\t") -> str:
    """Control characters as escapes, so that no command or answer can forge or hide lines of ours."""
    return "".join(c if c.isprintable() or c in keep else repr(c)[1:-1] for c in text)


def names(items: Iterable[str]) -> str:
    """A list of names the way the log lines show it: ``['a', 'b']``."""
    return str(list(items))
