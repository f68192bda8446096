"""The record with which a command's end is signalled: found among anything, never taken from a part."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from nsharness.supervisor.shell import _record

TAG = "0123456789abcdef"
_DIRECTORIES = st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=20)


def record(tag: str, code: int | str, cwd: str) -> bytes:
    return f"{tag}\0{code}\0{cwd}\0".encode()


@given(st.binary(max_size=60), st.integers(0, 255), _DIRECTORIES, st.binary(max_size=30))
def test_the_record_is_found_whatever_stands_around_it(
    before: bytes, code: int, cwd: str, after: bytes
) -> None:
    assume(TAG.encode() not in before)
    assert _record(bytearray(before + record(TAG, code, cwd) + after), TAG) == (code, cwd)


@given(st.integers(0, 255), _DIRECTORIES, st.data())
def test_a_part_of_a_record_is_none(code: int, cwd: str, data: st.DataObject) -> None:
    whole = record(TAG, code, cwd)
    assert _record(bytearray(whole[: data.draw(st.integers(0, len(whole) - 1))]), TAG) is None


@given(st.text("0123456789abcdef", min_size=16, max_size=16), st.binary(max_size=40))
def test_a_record_with_another_tag_is_none(tag: str, noise: bytes) -> None:
    assume(tag != TAG and TAG.encode() not in noise)
    assert _record(bytearray(record(tag, 0, "/") + noise), TAG) is None


@pytest.mark.parametrize("code", ["", "-1", "+1", " 1", "1 ", "0x1", "1e3", "9999", "9" * 5000, "٣"])
def test_a_code_that_is_none_makes_no_record(code: str) -> None:
    assert _record(bytearray(record(TAG, code, "/tmp")), TAG) is None


def test_a_directory_may_have_any_name() -> None:
    assert _record(bytearray(record(TAG, 0, "/tmp/a\nb c\x1b")), TAG) == (0, "/tmp/a\nb c\x1b")
    assert _record(bytearray(TAG.encode() + b"\x000\0/\xff\0"), TAG) == (0, "/\udcff")


def test_the_first_complete_record_counts() -> None:
    assert _record(bytearray(record(TAG, 1, "/one") + record(TAG, 2, "/two")), TAG) == (1, "/one")
