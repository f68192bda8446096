"""A chunked body read strictly, for the engine that reads with h11 otherwise."""

from __future__ import annotations

from typing import Protocol

import h11

from nsharness_proxy.http1 import CHUNK_LINE, FIELD_LINE, MAX_CHUNK_LINE, MAX_HEAD


class Buffer(Protocol):
    """The bytes that have come and nobody has read, as the engine keeps them."""

    def __bytes__(self) -> bytes: ...
    def __len__(self) -> int: ...
    def maybe_extract_at_most(self, count: int) -> bytearray | None: ...
    def maybe_extract_next_line(self) -> bytearray | None: ...


class Chunks:
    """A reader of one chunked body, in the place of the engine's: one event for each call, None while more
    must come. ``h11.RemoteProtocolError`` for what is no chunk."""

    def __init__(self) -> None:
        self._left = 0
        self._in_trailers = False
        self._trailers = 0
        self._after_data = False

    def __call__(self, buf: Buffer) -> h11.Data | h11.EndOfMessage | None:
        if self._in_trailers:
            return self._skip_trailers(buf)
        if not self._left:
            if self._after_data:
                line = self._line(buf, 2)
                if line is None:
                    return None
                if line != b"\r\n":
                    raise h11.RemoteProtocolError("a chunk is longer than its size")
                self._after_data = False
            line = self._line(buf, MAX_CHUNK_LINE)
            if line is None:
                return None
            match = CHUNK_LINE.fullmatch(line)
            if match is None:
                raise h11.RemoteProtocolError("a chunk has no size")
            self._left = int(match[1], 16)
            if not self._left:
                self._in_trailers = True
                return self._skip_trailers(buf)
        data = buf.maybe_extract_at_most(self._left)
        if data is None:
            return None
        self._left -= len(data)
        self._after_data = not self._left
        return h11.Data(data=bytes(data))

    def _skip_trailers(self, buf: Buffer) -> h11.EndOfMessage | None:
        """They are read and dropped, as section 7.1.2 permits."""
        while (line := self._line(buf, MAX_HEAD - self._trailers)) is not None:
            if line == b"\r\n":
                return h11.EndOfMessage()
            if not FIELD_LINE.fullmatch(line):
                raise h11.RemoteProtocolError("a trailer is no field")
            self._trailers += len(line)
        return None

    @staticmethod
    def _line(buf: Buffer, most: int) -> bytes | None:
        line = buf.maybe_extract_next_line()
        if (len(buf) if line is None else len(line)) > most:
            raise h11.RemoteProtocolError("a line of a chunked body is too long")
        if line is None and b"\n" in bytes(buf):
            raise h11.RemoteProtocolError("a line of a chunked body has no CR at its end")
        return None if line is None else bytes(line)

    def read_eof(self) -> h11.EndOfMessage:
        """The connection ended: too early, or we would not be asked."""
        raise h11.RemoteProtocolError("the connection ended in a chunked body")
