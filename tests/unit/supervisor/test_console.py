"""The lines that a person sees."""

from __future__ import annotations

import io
import os

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from nsharness.supervisor.console import Console, Silent, names, printable


def shown(part: str, text: str) -> str:
    stream = io.StringIO()
    Console(stream).line(part, text)
    return stream.getvalue()


def shown_plain(text: str) -> str:
    stream = io.StringIO()
    Console(stream).plain(text)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("part", "text", "line"),
    [
        ("proxy", "Started", "[proxy]         Started\n"),
        ("mock-services", "Started", "[mock-services] Started\n"),
        ("sandbox", "Started", "[sandbox]       Started\n"),
        ("sandbox", "$ ls", "[sandbox] $ ls\n"),
        ("sandbox", "  → exit=0", "[sandbox]   → exit=0\n"),
    ],
)
def test_texts_stand_in_one_column_and_commands_behind_their_label(part: str, text: str, line: str) -> None:
    assert shown(part, text) == line


@given(st.sampled_from(["sandbox", "proxy"]), st.text())
@example("sandbox", "$ true\n[proxy]         injected headers for evil.example: ['Authorization']")
@example("sandbox", "$ true\r[proxy]         Started")
@example("sandbox", "$ true\x1b[2K\x1b[1A")
@example("proxy", "denied GET a\u2028[sandbox] b")
@example("proxy", "\u202egnihton")
def test_a_text_makes_exactly_one_line_and_controls_nothing(part: str, text: str) -> None:
    """K27: neither a command nor a host name can forge, hide or overwrite a line."""
    out = shown(part, text)
    assert out.startswith(f"[{part}]")
    assert out.endswith("\n")
    assert out[:-1].isprintable()
    assert len(out.splitlines()) == 1


@given(st.text())
def test_plain_text_keeps_its_lines_and_nothing_else_that_controls(text: str) -> None:
    """K27."""
    out = shown_plain(text)
    assert all(character.isprintable() or character in "\n\t" for character in out)
    assert out.count("\n") == text.count("\n") + 1


@given(st.text(st.characters(exclude_categories=["C", "Z"])))
def test_what_is_printable_is_shown_as_it_is(text: str) -> None:
    assert printable(text) == text


def test_half_a_surrogate_pair_is_shown_as_an_escape() -> None:
    assert shown("sandbox", "$ cat \udcff") == "[sandbox] $ cat \\udcff\n"


@pytest.mark.parametrize("encoding", ["latin-1", "ascii"])
def test_what_the_terminal_cannot_show_does_not_end_the_run(encoding: str) -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding=encoding, write_through=True)
    Console(stream).line("sandbox", "  → exit=0")
    assert raw.getvalue() == b"[sandbox]   \\u2192 exit=0\n"


def test_a_reader_that_has_gone_away_does_not_disturb() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    stream = os.fdopen(writing, "w")
    console = Console(stream)
    console.line("proxy", "x")
    console.plain("y")
    with pytest.raises(BrokenPipeError):
        stream.close()


def test_nobody_hears_of_it_by_default() -> None:
    silent = Silent()
    silent.line("proxy", "x")
    silent.plain("y")


def test_names_are_listed_in_quotes() -> None:
    assert names(iter(("a", "b"))) == "['a', 'b']"
