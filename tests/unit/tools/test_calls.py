"""The tools' arguments and results, without a sandbox: what a model may send, and what it is told."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsharness.errors import NsharnessError
from nsharness.tools.calls import MAX_OUTPUT, MAX_READ, Answer, call
from nsharness.tools.definitions import MAX_COMMAND, MAX_CONTENT, TOOLS
from nsharness.tools.formats import to_json
from tests.unit.agent.fakes import FakeShell, Result
from tests.unit.tools.boxes import FakeBox

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec=None)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
NAMES = st.sampled_from([*(tool.name for tool in TOOLS), "exec", ""])
ARGUMENTS = st.dictionaries(st.sampled_from(["command", "seconds", "path", "content", "x"]), JSON)


def error(answer: Answer) -> str:
    assert answer.is_error
    assert answer.report.keys() == {"error"}
    text: str = answer.report["error"]
    return text


@given(NAMES | st.text(), ARGUMENTS | JSON)
def test_whatever_a_model_sends_gives_a_result_that_can_be_sent_back(name: str, arguments: Any) -> None:
    box = FakeBox()
    answer = call(box, name, arguments)
    text = to_json(answer)
    assert json.loads(text.encode()) == answer.report
    assert len(text) < 3000
    assert all(1.0 <= seconds <= 600.0 for _, seconds in box.shell.asked)


@pytest.mark.parametrize(
    ("name", "arguments", "what"),
    [
        ("shell", {}, "the argument command is missing"),
        ("shell", {"command": None}, "command must be a string, not null"),
        ("shell", {"command": ["ls"]}, "command must be a string, not a list"),
        ("shell", {"command": {"cmd": "ls"}}, "command must be a string, not an object"),
        ("shell", {"command": True}, "command must be a string, not a boolean"),
        ("shell", {"command": " \n"}, "command is empty"),
        ("shell", {"command": "a\0b"}, "NUL"),
        ("shell", {"command": "echo \ud800"}, "surrogate"),
        ("shell", {"command": "x" * (MAX_COMMAND + 1)}, f"at most {MAX_COMMAND}"),
        ("shell", {"command": "é" * (MAX_COMMAND // 2 + 1)}, f"at most {MAX_COMMAND}"),
        ("shell", {"command": "ls", "seconds": "5"}, "seconds must be a number, not a string"),
        ("shell", {"command": "ls", "seconds": True}, "seconds must be a number, not a boolean"),
        ("shell", {"command": "ls", "seconds": float("nan")}, "seconds must be a number, not NaN"),
        (
            "shell",
            {"command": "ls", "timeout": 5},
            "there is no argument 'timeout'; shell has command, seconds",
        ),
        ("shell", {"command": "ls", "x" * 10**6: 5}, "there is no argument 'xxxx"),
        ("shell", [], "the arguments must be an object, not a list"),
        ("shell", "ls", "the arguments must be an object, not a string"),
        ("read_file", {"path": ""}, "path is empty"),
        ("read_file", {"path": "/etc\0"}, "NUL"),
        ("read_file", {"path": "/" * 4096}, "at most 4095"),
        ("write_file", {"path": "/tmp/a"}, "the argument content is missing"),
        ("write_file", {"path": "/tmp/a", "content": "x" * (MAX_CONTENT + 1)}, f"at most {MAX_CONTENT}"),
        ("allow_host", {"host": "example.com"}, "there is no tool 'allow_host'; the tools are shell,"),
        (7, {}, "there is no tool"),
    ],
    ids=range(24),
)
def test_a_wrong_call_is_told_shortly_and_reaches_nothing(name: str, arguments: object, what: str) -> None:
    box = FakeBox()
    answer = error(call(box, name, arguments))
    assert what in answer
    assert len(answer) < 300
    assert (box.shell.asked, box.files) == ([], {})


@pytest.mark.parametrize(
    ("asked", "given_time"), [(None, 60.0), (0, 1.0), (-5.5, 1.0), (10**400, 600.0), (7, 7.0)]
)
def test_time_is_brought_within_bounds(asked: object, given_time: float) -> None:
    box = FakeBox()
    call(box, "shell", {"command": "true", "seconds": asked})
    assert box.shell.asked == [("true", given_time)]


def test_an_exit_code_is_no_error_and_a_timeout_is_one() -> None:
    box = FakeBox(FakeShell(lambda _: Result("out", 3, "err", "/work")))
    answer = call(box, "shell", {"command": "make"})
    assert answer == Answer({"exit_code": 3, "stdout": "out", "stderr": "err", "cwd": "/work"})
    assert not answer.is_error
    slow = FakeBox(FakeShell(lambda _: Result("x", 124, timed_out=True)))
    assert call(slow, "shell", {"command": "make", "seconds": 5}).report["error"] == (
        "the command was ended after 5 seconds"
    )


def test_output_is_bounded_and_says_so() -> None:
    huge = Result("x" * 10**6, 0, "\x01" * 10**6, "/" * 10**6, stdout_bytes=10**9, truncated=True)
    answer = call(FakeBox(FakeShell(lambda _: huge)), "shell", {"command": "yes"})
    assert "1000000000 bytes to stdout" in answer.report["cut"]
    assert all(len(answer.report[key]) < MAX_OUTPUT + 100 for key in ("stdout", "stderr", "cwd"))


def test_a_file_is_written_and_read_as_text() -> None:
    box = FakeBox()
    assert call(box, "write_file", {"path": "/tmp/a", "content": "é\0\n"}).report == {"written_bytes": 4}
    assert call(box, "read_file", {"path": "/tmp/a"}).report == {"content": "é\0\n"}
    assert call(box, "write_file", {"path": "/tmp/a", "content": ""}).report == {"written_bytes": 0}


def test_a_long_file_is_cut_between_two_characters() -> None:
    box = FakeBox(files={"a": b"x" + "é".encode() * MAX_READ, "b": b"x" * MAX_READ})
    report = call(box, "read_file", {"path": "a"}).report
    assert report["content"] == "x" + "é" * ((MAX_READ - 1) // 2)
    assert f"only the first {len(report['content'].encode())} bytes" in report["cut"]
    assert call(box, "read_file", {"path": "b"}).report == {"content": "x" * MAX_READ}


@pytest.mark.parametrize("data", [b"\x7fELF\xff", b"caf\xe9", "é".encode()[:1]])
def test_what_is_no_text_is_an_error_and_not_mangled(data: bytes) -> None:
    assert "no text in UTF-8" in error(call(FakeBox(files={"a": data}), "read_file", {"path": "a"}))


def test_a_file_named_like_standard_input_is_a_file() -> None:
    assert call(FakeBox(files={"./-": b"x"}), "read_file", {"path": "-"}).report == {"content": "x"}


@pytest.mark.parametrize(
    "failure", [NsharnessError("the sandbox has ended " + "x" * 10**6), OSError(24, "Too many")]
)
def test_what_nsharness_cannot_do_is_a_result_too(failure: Exception) -> None:
    text = error(call(FakeBox(missing=failure), "read_file", {"path": "a"}))
    assert "the sandbox has ended" in text or "Too many" in text
    assert len(text) < 2100
