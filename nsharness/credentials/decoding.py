"""Content encodings (RFC 9110 section 8.4), undone as a stream so that the body can be searched.

Everything that cannot be decoded with certainty is an error: an encoding that is not known, damage, a
cut-off end, bytes behind the end. A browser forgives more; here a body that only the client understands
is one that was not searched.

Output comes in pieces of bounded size from a generator: a small piece of input that stands for
gigabytes costs time, and only while somebody takes the pieces, but not memory.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

PIECE = 65536
MOST_LAYERS = 4

# A zstd decompressor gives all output at once. Four bytes of input can stand for one block of 128 KiB
# (RFC 8878 section 3.1.1.2), so this many bytes of input are at most 8 MiB.
_ZSTD_INPUT = 256
# RFC 9659: what a receiver of the content encoding "zstd" has to accept, and no more.
_ZSTD_WINDOW = 8 << 20
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"


class DecodingError(ValueError):
    """A body that cannot be decoded. The text never quotes it."""


class _Layer(Protocol):
    def feed(self, data: bytes) -> Iterator[bytes]:
        """The output for this input, in pieces. To be exhausted before the next call."""

    def finish(self) -> None:
        """``DecodingError`` unless the input was complete (or there was none at all)."""


def parse_encodings(fields: Iterable[str]) -> tuple[str, ...]:
    """The codings of all Content-Encoding fields in the order of their application; ``identity`` is left out.

    ``DecodingError`` for a coding that is not known, or for an unreasonable number of them.
    """
    names = [name.strip(" \t").lower() for field in fields for name in field.split(",")]
    codings = tuple(_ALIASES.get(name, name) for name in names if name not in ("", "identity"))
    if len(codings) > MOST_LAYERS:
        raise DecodingError(f"more than {MOST_LAYERS} content encodings")
    for coding in codings:
        if coding not in _LAYERS:
            raise DecodingError("unknown content encoding")
    return codings


class Decoder:
    """Undoes some codings, the last applied first. With none of them it passes everything through."""

    def __init__(self, codings: Iterable[str]) -> None:
        """``codings`` as ``parse_encodings`` gives them."""
        self._layers = [_LAYERS[coding]() for coding in reversed(tuple(codings))]

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The decoded bytes, in pieces of at most ``PIECE`` bytes; exhaust it before the next call.

        ``DecodingError``, then or in between, when the data is damaged.
        """
        return self._through(0, data)

    def finish(self) -> None:
        """``DecodingError`` if the body ended too early."""
        for layer in self._layers:
            layer.finish()

    def _through(self, number: int, data: bytes) -> Iterator[bytes]:
        if number == len(self._layers):
            for start in range(0, len(data), PIECE):
                yield data[start : start + PIECE]
            return
        for piece in self._layers[number].feed(data):
            yield from self._through(number + 1, piece)


class _Zlib:
    """gzip (RFC 1952, several members allowed) and deflate (RFC 1950, or RFC 1951 without the wrapper)."""

    def __init__(self, *, gzip: bool) -> None:
        self._gzip = gzip
        self._inflate: zlib._Decompress | None = None
        self._begin = b""
        self._complete = True
        self._ended = False

    def feed(self, data: bytes) -> Iterator[bytes]:
        data = self._begin + data
        self._begin = b""
        while data:
            if self._inflate is None:
                if self._ended and not self._gzip:
                    raise DecodingError("data behind the end of deflate data")
                if len(data) < 2:
                    self._begin = data
                    self._complete = False
                    return
                self._inflate = zlib.decompressobj(self._window(data))
                self._complete = False
            inflate = self._inflate
            try:
                piece = inflate.decompress(data, PIECE)
            except zlib.error:
                raise DecodingError("damaged gzip or deflate data") from None
            if piece:
                yield piece
            data = inflate.unconsumed_tail
            while not data and len(piece) == PIECE and not inflate.eof:
                piece = self._more(inflate)
                if piece:
                    yield piece
            if inflate.eof:
                data = inflate.unused_data
                self._inflate = None
                self._complete = self._ended = True

    def finish(self) -> None:
        if not self._complete:
            raise DecodingError("gzip or deflate data is cut off")

    @staticmethod
    def _more(inflate: zlib._Decompress) -> bytes:
        """Output that is still inside the decompressor although it has taken all input."""
        try:
            return inflate.decompress(b"", PIECE)
        except zlib.error:
            raise DecodingError("damaged gzip or deflate data") from None

    def _window(self, begin: bytes) -> int:
        if self._gzip:
            return 16 + zlib.MAX_WBITS
        wrapped = begin[0] & 15 == 8 and int.from_bytes(begin[:2]) % 31 == 0
        return zlib.MAX_WBITS if wrapped else -zlib.MAX_WBITS


class _Brotli:
    """br (RFC 7932)."""

    def __init__(self) -> None:
        import brotli  # type: ignore[import-untyped] # it has none

        self._error = brotli.error
        self._inflate = brotli.Decompressor()
        self._empty = True

    def feed(self, data: bytes) -> Iterator[bytes]:
        if data:
            self._empty = False
        more = bool(data)
        while more:
            if self._inflate.is_finished():
                raise DecodingError("data behind the end of br data")
            try:
                piece = bytes(self._inflate.process(data, output_buffer_limit=PIECE))
            except self._error:
                raise DecodingError("damaged br data") from None
            # A full piece may be followed by output although all input has been taken.
            full = len(piece) >= PIECE or not self._inflate.can_accept_more_data()
            more = full and not self._inflate.is_finished()
            data = b""
            for start in range(0, len(piece), PIECE):
                yield piece[start : start + PIECE]

    def finish(self) -> None:
        if not self._empty and not self._inflate.is_finished():
            raise DecodingError("br data is cut off")


class _Zstd:
    """zstd (RFC 8878, with the window of RFC 9659), several frames allowed."""

    def __init__(self) -> None:
        import zstandard

        self._error = zstandard.ZstdError
        self._make = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW).decompressobj
        self._inflate = self._make()
        self._complete = True

    def feed(self, data: bytes) -> Iterator[bytes]:
        for start in range(0, len(data), _ZSTD_INPUT):
            rest = data[start : start + _ZSTD_INPUT]
            while rest:
                try:
                    output = self._inflate.decompress(rest)
                except self._error:
                    raise DecodingError("damaged zstd data") from None
                for begin in range(0, len(output), PIECE):
                    yield output[begin : begin + PIECE]
                self._complete = self._inflate.eof
                rest = self._inflate.unused_data if self._inflate.eof else b""
                if self._inflate.eof:
                    self._inflate = self._make()

    def finish(self) -> None:
        if not self._complete:
            raise DecodingError("zstd data is cut off")


_ALIASES = {"x-gzip": "gzip"}
_LAYERS: dict[str, Callable[[], _Layer]] = {
    "gzip": lambda: _Zlib(gzip=True),
    "deflate": lambda: _Zlib(gzip=False),
    "br": _Brotli,
    "zstd": _Zstd,
}
