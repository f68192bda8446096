"""Where a body ends: one reader for each way of saying so. Pure; nothing is kept but what cannot be read yet.

``feed`` is given all that has come and was not taken yet, and says what of it is body and what is left
over: what stands behind the end, or a line that is not complete.
"""

from __future__ import annotations

from typing import Final, Protocol

from nsharness_proxy.http1 import CHUNK_LINE, FIELD_LINE, MAX_CHUNK_LINE, MAX_HEAD

_CRLF: Final = b"\r\n"


class BodyError(Exception):
    """What came is no body. The text quotes nothing of it."""


class Reader(Protocol):
    """Reads one body."""

    done: bool
    """Whether its end has been read."""

    def feed(self, data: bytes) -> tuple[bytes, bytes]: ...


class Fixed:
    """A body of ``length`` bytes."""

    __slots__ = ("_left", "done")

    def __init__(self, length: int) -> None:
        self._left = length
        self.done = not length

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        left = self._left
        if len(data) < left:
            self._left = left - len(data)
            return data, b""
        self._left = 0
        self.done = True
        return (data, b"") if len(data) == left else (data[:left], data[left:])


class UntilClosed:
    """A body that the end of the connection ends."""

    __slots__ = ("done",)

    def __init__(self) -> None:
        self.done = False

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        return data, b""


class Chunked:
    """A chunked body (RFC 9112 section 7.1), read as strictly as heads are. Extensions are skipped, trailers
    too, as section 7.1.2 permits; both are bounded."""

    __slots__ = ("_behind", "_left", "_trailers", "done")

    def __init__(self) -> None:
        self._left = 0
        self._behind = False  # a chunk's data was read, the end of its line was not
        self._trailers = -1  # how many bytes of them were read; negative before the last chunk
        self.done = False

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        pieces: list[bytes] = []
        at, size = 0, len(data)
        while at < size and not self.done:
            if self._left:
                piece = data[at : at + self._left]
                pieces.append(piece)
                at += len(piece)
                self._left -= len(piece)
                self._behind = not self._left
            elif self._behind:
                end = data[at : at + 2]
                if end != _CRLF[: len(end)]:
                    raise BodyError("a chunk is longer than its size")
                if len(end) < 2:
                    break
                at += 2
                self._behind = False
            else:
                end_of_line = data.find(b"\n", at) + 1
                most = MAX_CHUNK_LINE if self._trailers < 0 else MAX_HEAD - self._trailers
                if (end_of_line or size) - at > most:
                    raise BodyError("a line of a chunked body is too long")
                if not end_of_line:
                    break
                self._line(data[at:end_of_line])
                at = end_of_line
        return (pieces[0] if len(pieces) == 1 else b"".join(pieces)), data[at:]

    def _line(self, line: bytes) -> None:
        if self._trailers < 0:
            match = CHUNK_LINE.fullmatch(line)
            if match is None:
                raise BodyError("a chunk has no size")
            self._left = int(match[1], 16)
            if not self._left:
                self._trailers = 0
        elif line == _CRLF:
            self.done = True
        elif FIELD_LINE.fullmatch(line):
            self._trailers += len(line)
        else:
            raise BodyError("a trailer is no field")
