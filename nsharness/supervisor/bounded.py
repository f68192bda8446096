"""Output of any length in memory of bounded size."""

from __future__ import annotations

from typing import Final

OUTPUT_LIMIT: Final = 200_000
"""Bytes of each stream that one result holds at most; of more, the beginning and the end are kept."""


class BoundedOutput:
    """Takes any amount of bytes and keeps the first and the last half of ``limit``."""

    def __init__(self, limit: int = OUTPUT_LIMIT) -> None:
        self._half = limit // 2
        self._head = bytearray()
        self._tail = bytearray()
        self.total = 0

    def add(self, data: bytes) -> None:
        """Append."""
        self.total += len(data)
        room = self._half - len(self._head)
        self._head += data[:room] if room > 0 else b""
        self._tail += data[max(room, 0) :]
        if len(self._tail) > 2 * self._half:
            del self._tail[: len(self._tail) - self._half]

    @property
    def cut(self) -> int:
        """How many bytes in the middle are lost."""
        return max(0, self.total - len(self._head) - min(len(self._tail), self._half))

    def text(self) -> str:
        """What is kept, with a line that says how much is missing."""
        tail = bytes(self._tail[-self._half :]) if self._half else b""
        if not self.cut:
            return (bytes(self._head) + tail).decode(errors="replace")
        marker = f"\n[… {self.cut} bytes cut …]\n"
        return bytes(self._head).decode(errors="replace") + marker + tail.decode(errors="replace")
