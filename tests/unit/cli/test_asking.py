"""What is typed at a question, and what it looks like."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsharness.cli.asking import Reading, new_code, question_text
from nsharness.supervisor.questions import Question

CODE = "k7mq"


def reading() -> tuple[Reading, list[str]]:
    echoed: list[str] = []
    return Reading(CODE, echoed.append), echoed


@pytest.mark.parametrize("word", ["once", "always", "never"])
@pytest.mark.parametrize(
    "form", ["{} k7mq\r", "  {}  K7MQ \n", "x\x15{} k7mqq\x7f\r", "\x1b[I\x1b[<0;1;2M{} k7mq\r"]
)
def test_an_answer_is_a_word_and_the_code(word: str, form: str) -> None:
    assert reading()[0].feed(form.format(word).encode()) == word


def test_keys_may_come_one_by_one() -> None:
    read, echoed = reading()
    typed = [read.feed(bytes([key])) for key in b"once k7mq\r"]
    assert typed == [None] * 9 + ["once"]
    assert "".join(echoed) == "once k7mq"


@given(st.binary(max_size=60), st.binary(max_size=60))
def test_nothing_without_the_code_is_an_answer(before: bytes, after: bytes) -> None:
    """Neither what was being typed for the program, nor what a terminal says when a program asks it."""
    data = before + b"once always never y\r" + after
    if CODE.encode() not in data.lower():
        assert reading()[0].feed(data) in (None, "later")


def careless(data: bytes) -> str | None:
    """Reads a line as most programs do."""
    line = data.decode().rpartition("\x1b\\")[2].strip()
    return line if line in ("once", "always", "never") else None


@pytest.mark.parametrize(
    "typed", [b"always\r", b"\x1b]lonce\x1b\\once\r", b"\x1b]Lonce\x1b\\\x1b]l\x1b\\once\n"]
)
def test_what_a_terminal_types_for_a_program_is_no_answer(typed: bytes) -> None:
    """A person who answers the program, and reports of a title that it has set (CSI 21 t): they would do for
    a question without a code."""
    assert careless(typed) in ("once", "always")
    assert reading()[0].feed(typed) is None


def test_a_code_is_not_found_by_trying() -> None:
    read, _ = reading()
    assert read.feed(b"once aaaa\ronce bbbb\r") is None
    assert read.feed(b"once cccc\ronce k7mq\r") == "later"
    assert reading()[0].feed(b"\x03") == "later"
    assert len({new_code() for _ in range(50)}) > 45


@given(
    st.text(max_size=20), st.sampled_from(["a.example", "xn--e1afmkfd.example", "a" * 60 + "." + "b" * 60])
)
def test_a_question_has_no_control_character_of_anybody_elses(method: str, host: str) -> None:
    question = Question("run-1", host, method, "https", 443, time.monotonic() + 60)
    text = question_text(question, CODE)
    assert text.replace("\r\n", "").isprintable()
    assert host[-30:] in text
    assert CODE in text
