"""The one error that a user sees."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsharness.errors import NsharnessError


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (NsharnessError("cannot read it"), "cannot read it"),
        (NsharnessError("cannot read it", why="no such file"), "cannot read it: no such file"),
        (NsharnessError("cannot read it", hint="make it"), "cannot read it (make it)"),
        (
            NsharnessError("cannot read it", why="no such file", hint="make it"),
            "cannot read it: no such file (make it)",
        ),
    ],
)
def test_says_what_why_and_what_to_do(error: NsharnessError, line: str) -> None:
    assert str(error) == line


def test_exit_code_is_that_of_a_failing_wrapper_unless_another_is_given() -> None:
    assert NsharnessError("x").exit_code == 125
    assert NsharnessError("x", exit_code=127).exit_code == 127


@given(st.text(), st.text(), st.text())
def test_is_one_printable_line_whatever_the_system_contributed(what: str, why: str, hint: str) -> None:
    """K27: a file name with control characters cannot forge a line."""
    line = str(NsharnessError(what, why=why, hint=hint))
    assert line.isprintable()
    assert len(line.splitlines()) <= 1


def test_printable_text_is_not_changed() -> None:
    assert str(NsharnessError("größer → 漢字", why="a 'b'")) == "größer → 漢字: a 'b'"
