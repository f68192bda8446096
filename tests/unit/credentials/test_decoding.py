"""What is encoded is decoded in bounded pieces, or refused."""

from __future__ import annotations

import gzip
import random
import tracemalloc
import zlib
from collections.abc import Callable

import brotli  # type: ignore[import-untyped] # it has none
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from nsharness.credentials.decoding import PIECE, Decoder, DecodingError, parse_encodings


def raw_deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(data) + packer.flush()


def zstd(data: bytes) -> bytes:
    return zstandard.ZstdCompressor(level=3, write_checksum=True).compress(data)


CODERS: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "gzip": ("gzip", gzip.compress),
    "deflate": ("deflate", zlib.compress),
    "raw deflate": ("deflate", raw_deflate),
    "br": ("br", lambda data: bytes(brotli.compress(data, quality=4))),
    "zstd": ("zstd", zstd),
}
coders = pytest.mark.parametrize("coder", CODERS)


def decoded(codings: tuple[str, ...], *parts: bytes) -> bytes:
    decoder = Decoder(codings)
    pieces = [piece for part in parts for piece in decoder.feed(part)]
    decoder.finish()
    assert all(0 < len(piece) <= PIECE for piece in pieces)
    return b"".join(pieces)


@coders
@given(st.integers(0, 1 << 62), st.integers(0, 200_000), st.integers(1, 70_000))
def test_what_was_encoded_comes_out_whatever_the_pieces(coder: str, seed: int, size: int, step: int) -> None:
    rng = random.Random(seed)
    body = rng.choice([rng.randbytes(size), b"a" * size, b"abc" * (size // 3), b""])
    coding, encode = CODERS[coder]
    data = encode(body)
    assert decoded((coding,), *(data[i : i + step] for i in range(0, len(data), step))) == body


@coders
def test_single_bytes_at_a_time(coder: str) -> None:
    coding, encode = CODERS[coder]
    assert decoded((coding,), *(bytes((b,)) for b in encode(b"hello " * 50))) == b"hello " * 50


@coders
def test_what_is_written_so_far_comes_out_at_once(coder: str) -> None:
    """An SSE stream is flushed after each event, and must not wait for the next."""
    flushed = {
        "gzip": lambda: zlib.compressobj(wbits=31),
        "deflate": zlib.compressobj,
        "raw deflate": lambda: zlib.compressobj(wbits=-15),
        "br": brotli.Compressor,
        "zstd": lambda: zstandard.ZstdCompressor().compressobj(),
    }[coder]()
    decoder = Decoder([CODERS[coder][0]])
    for number in range(5):
        event = f"data: {number}\n\n".encode()
        if coder == "br":
            data = flushed.process(event) + flushed.flush()
        elif coder == "zstd":
            data = flushed.compress(event) + flushed.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK)
        else:
            data = flushed.compress(event) + flushed.flush(zlib.Z_SYNC_FLUSH)
        assert b"".join(decoder.feed(data)) == event


@coders
@pytest.mark.parametrize("cut", [1, 2, 5, 9, -1, -5])
def test_a_body_that_is_cut_off_is_refused(coder: str, cut: int) -> None:
    coding, encode = CODERS[coder]
    data = encode(random.Random(1).randbytes(1000))
    with pytest.raises(DecodingError):
        decoded((coding,), data[:cut])


@coders
@pytest.mark.parametrize("body", [b"plain text, not encoded", b"\x00" * 50, b"\xff" * 50])
def test_a_body_that_was_never_encoded_is_refused(coder: str, body: bytes) -> None:
    coding, _ = CODERS[coder]
    with pytest.raises(DecodingError):
        decoded((coding,), body)


@coders
def test_data_behind_the_end_is_refused_wherever_the_border_is(coder: str) -> None:
    coding, encode = CODERS[coder]
    data = encode(b"hello")
    for parts in ((data + b"token",), (data, b"token"), (data, b"t", b"o")):
        with pytest.raises(DecodingError):
            decoded((coding,), *parts)


@pytest.mark.parametrize("coder", ["deflate", "raw deflate", "br"])
@pytest.mark.parametrize("together", [True, False])
def test_a_second_body_behind_the_first_is_refused_where_there_can_be_only_one(
    coder: str, together: bool
) -> None:
    coding, encode = CODERS[coder]
    first, second = encode(b"one"), encode(b"two")
    with pytest.raises(DecodingError):
        decoded((coding,), *((first + second,) if together else (first, second)))


@coders
def test_output_that_is_still_inside_when_all_input_is_taken_comes_out(coder: str) -> None:
    coding, encode = CODERS[coder]
    for more in range(0, 280, 3):
        body = bytes(PIECE + more)
        assert decoded((coding,), encode(body)) == body


@pytest.mark.parametrize("coder", ["gzip", "zstd"])
def test_several_members_are_one_body(coder: str) -> None:
    coding, encode = CODERS[coder]
    data = encode(b"one ") + encode(b"") + encode(b"two")
    for step in (1, 7, 1000):
        assert decoded((coding,), *(data[i : i + step] for i in range(0, len(data), step))) == b"one two"


@coders
def test_no_bytes_at_all_are_an_empty_body(coder: str) -> None:
    """Answers to HEAD and 304 name an encoding and have no body."""
    assert decoded((CODERS[coder][0],)) == b""
    assert decoded((CODERS[coder][0],), b"") == b""


@pytest.mark.slow
@coders
def test_a_bomb_takes_time_but_no_memory(coder: str) -> None:
    coding, encode = CODERS[coder]
    bomb = encode(bytes(1 << 26))
    decoder = Decoder([coding])
    tracemalloc.start()
    try:
        total = 0
        for piece in decoder.feed(bomb):
            total += len(piece)
        decoder.finish()
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert total == 1 << 26
    assert most < 20 << 20


def test_a_bomb_in_a_bomb_is_undone_piece_by_piece() -> None:
    bomb = gzip.compress(gzip.compress(bytes(1 << 24)))
    assert sum(len(piece) for piece in Decoder(["gzip", "gzip"]).feed(bomb)) == 1 << 24


def test_stacked_encodings_are_undone_in_reverse() -> None:
    body = b"hello " * 1000
    data = zstd(bytes(brotli.compress(gzip.compress(body))))
    codings = parse_encodings(["gzip, br", "zstd"])
    assert decoded(codings, data[:100], data[100:]) == body
    with pytest.raises(DecodingError):
        decoded(tuple(reversed(codings)), data)


def test_without_encodings_everything_passes() -> None:
    assert decoded(()) == b""
    assert decoded((), b"abc", b"x" * (3 * PIECE)) == b"abc" + b"x" * (3 * PIECE)


@pytest.mark.parametrize(
    ("fields", "codings"),
    [
        ([], ()),
        (["identity"], ()),
        (["", " , "], ()),
        (["GZip"], ("gzip",)),
        (["x-gzip"], ("gzip",)),
        (["gzip ,\tbr"], ("gzip", "br")),
        (["gzip", "identity", "zstd"], ("gzip", "zstd")),
    ],
)
def test_the_codings_of_a_message(fields: list[str], codings: tuple[str, ...]) -> None:
    assert parse_encodings(fields) == codings


@pytest.mark.parametrize("field", ["compress", "x-secret", "gzip;q=1", "gzip br", "gzip, " * 5, "dcb"])
def test_a_coding_that_is_not_known_is_refused_and_not_quoted(field: str) -> None:
    with pytest.raises(DecodingError) as error:
        parse_encodings([field])
    assert "secret" not in str(error.value)


def test_a_zstd_window_beyond_the_standard_is_refused() -> None:
    parameters = zstandard.ZstdCompressionParameters(window_log=24, enable_ldm=True)
    packer = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    data = packer.compress(random.Random(1).randbytes(1 << 20) * 20) + packer.flush()
    with pytest.raises(DecodingError):
        decoded(("zstd",), data)
