"""The audit log: one JSON line an event, appended to a file whose descriptor somebody else opened."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

from nsharness.audit.event import AuditEvent


class AuditLog:
    """Writes events to a descriptor that was opened with O_APPEND, and owns it.

    Every event is one ``write(2)``, which the kernel keeps together among several writers.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def write(self, event: AuditEvent) -> None:
        """Append an event. ``OSError`` when the record cannot be kept in full: what it records must not
        happen then."""
        self.append(event.to_line())

    def append(self, text: bytes) -> None:
        """The same with what ``to_line`` gave."""
        line = text + b"\n"
        if os.write(self._descriptor, line) != len(line):
            # The rest of a line that a full disk cut: the next one must not continue it.
            os.write(self._descriptor, b"\n")
            raise OSError(28, "the audit log takes no more")

    def close(self) -> None:
        """Close the descriptor. Idempotent."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def read(path: Path) -> Iterator[AuditEvent]:
    """The events of a log in their order. A line that is none (cut by a crash) is left out."""
    with path.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            try:
                yield AuditEvent.from_json(json.loads(line))
            except ValueError:
                continue
