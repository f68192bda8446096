"""Rates and sizes as people write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsharness.policy.units import Rate, UnitError, parse_size, size_text


@pytest.mark.parametrize(
    ("text", "rate"),
    [("10/s", (10, 1)), ("100/m", (100, 60)), ("1/h", (1, 3600)), ("5000/d", (5000, 86400))],
)
def test_a_rate_is_requests_in_a_period(text: str, rate: tuple[int, int]) -> None:
    assert Rate.parse(text) == Rate(*rate)
    assert str(Rate.parse(text)) == text


@pytest.mark.parametrize(
    "text", ["", "10", "0/s", "-1/s", "1.5/s", "10/ms", "10 / s", "10/sec", "s/10", "٣/s", "9999999/s"]
)
def test_what_is_no_rate_is_refused(text: str) -> None:
    with pytest.raises(UnitError):
        Rate.parse(text)
    for wrong in ((0, 1), (1, 2), (10**6, 1)):
        with pytest.raises(UnitError):
            Rate(*wrong)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("512", 512),
        ("512B", 512),
        ("1kB", 1000),
        ("64KB", 64_000),
        ("10MB", 10_000_000),
        ("10 MB", 10_000_000),
        ("1KiB", 1024),
        ("1MiB", 1 << 20),
        ("2GiB", 2 << 30),
        ("3GB", 3 * 10**9),
    ],
)
def test_a_size_is_bytes_in_a_unit(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "MB", "-1", "1.5MB", "1 0", "10mb", "10M", "10TB", "1e6", "٣", "1  MB"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(UnitError):
        parse_size(text)


@given(st.integers(0, 10**14))
def test_a_size_is_written_exactly(size: int) -> None:
    assert parse_size(size_text(size)) == size
    assert len(size_text(size)) <= len(str(size)) + 3
