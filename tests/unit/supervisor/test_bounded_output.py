"""What is kept of an output without end."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from nsharness.supervisor.bounded import BoundedOutput

_CHUNKS = st.lists(st.binary(max_size=30), max_size=20)
_LIMITS = st.integers(0, 40)


def filled(limit: int, chunks: list[bytes]) -> BoundedOutput:
    output = BoundedOutput(limit)
    for chunk in chunks:
        output.add(chunk)
    return output


@given(_LIMITS, _CHUNKS)
def test_everything_is_counted(limit: int, chunks: list[bytes]) -> None:
    assert filled(limit, chunks).total == len(b"".join(chunks))


@given(_LIMITS, _CHUNKS)
def test_the_beginning_and_the_end_are_kept_exactly(limit: int, chunks: list[bytes]) -> None:
    whole, half = b"".join(chunks), limit // 2
    output = filled(limit, chunks)
    lost = max(0, len(whole) - 2 * half)
    assert output.cut == lost
    if not lost:
        assert output.text() == whole.decode(errors="replace")
    else:
        head, tail = whole[:half], whole[len(whole) - half :]
        marker = f"\n[… {lost} bytes cut …]\n"
        assert output.text() == head.decode(errors="replace") + marker + tail.decode(errors="replace")


@given(_LIMITS, _CHUNKS, _CHUNKS)
def test_how_it_comes_in_pieces_makes_no_difference(limit: int, one: list[bytes], more: list[bytes]) -> None:
    chunks = one + more
    assert filled(limit, chunks).text() == filled(limit, [b"".join(chunks)]).text()


def test_memory_is_bounded() -> None:
    output = filled(1000, [b"x" * 977] * 5000)
    assert len(output._head) + len(output._tail) <= 1000 + 977
    assert output.total == 977 * 5000


def test_reading_it_does_not_change_it() -> None:
    output = filled(10, [b"0123456789abcdef"])
    assert output.text() == output.text()
    assert (output.cut, output.total) == (6, 16)
