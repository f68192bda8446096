"""The tools, without a model."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsharness.agent.skills import SkillFolder
from nsharness.agent.tools import Ran, Toolbox, gate
from nsharness.errors import NsharnessError
from nsharness.tools.calls import MAX_OUTPUT, clip
from tests.unit.agent.fakes import FakeShell, Result


@pytest.fixture
def skills(tmp_path: Path) -> SkillFolder:
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "SKILL.md").write_text("---\ndescription: d\n---\nneedle\n")
    (tmp_path / "one" / "long.md").write_text("x" * 100_000)
    return SkillFolder(tmp_path)


def test_exec_reports_how_the_command_ended_and_remembers_it() -> None:
    shell = FakeShell(lambda _: Result("out", 3, "err", "/work"))
    toolbox = Toolbox(shell, None)
    assert toolbox.exec("make") == {"exit_code": 3, "stdout": "out", "stderr": "err", "cwd": "/work"}
    assert toolbox.ran == (Ran("make", 3, timed_out=False),)
    assert not toolbox.ran[0].succeeded


def test_exec_says_when_time_ran_out_and_when_output_was_cut() -> None:
    shell = FakeShell(
        lambda _: Result("x", timed_out=True, truncated=True, stdout_bytes=10**9, stderr_bytes=7)
    )
    toolbox = Toolbox(shell, None)
    report = toolbox.exec("yes", 5)
    assert report["error"] == "the command was ended after 5 seconds"
    assert "1000000000 bytes to stdout and 7 to stderr" in report["cut"]
    assert not toolbox.ran[0].succeeded


@pytest.mark.parametrize("command", ["", " \n", "a\0b"])
def test_what_is_no_command_does_not_reach_the_shell(command: str) -> None:
    shell = FakeShell()
    toolbox = Toolbox(shell, None)
    assert "error" in toolbox.exec(command)
    assert (shell.asked, toolbox.ran) == ([], ())


@given(st.floats())
def test_no_model_makes_a_command_run_for_ever_or_no_time_at_all(seconds: float) -> None:
    shell = FakeShell()
    Toolbox(shell, None).exec("true", seconds)
    given_time = shell.asked[0][1]
    assert 1.0 <= given_time <= 600.0
    assert given_time == seconds or not (1.0 <= seconds <= 600.0)
    assert not math.isnan(given_time)


@given(st.text(max_size=200), st.integers(4, 40))
def test_long_output_keeps_both_ends_and_says_what_is_missing(text: str, limit: int) -> None:
    text = text.replace("\n", " ")
    clipped = clip(text, limit)
    if len(text) <= limit:
        assert clipped == text
        return
    head, note, tail = clipped.split("\n")
    assert text.startswith(head)
    assert text.endswith(tail)
    assert note == f"[{len(text) - len(head) - len(tail)} characters left out]"
    assert len(head) + len(tail) <= limit


def test_output_is_bounded_and_can_be_sent_to_a_provider() -> None:
    shell = FakeShell(lambda _: Result("x" * 10**6, stderr="\udcff" * 10**6))
    report = Toolbox(shell, None).exec("x")
    assert len(report["stdout"]) < MAX_OUTPUT + 100
    assert len(report["stderr"].encode()) < MAX_OUTPUT + 100


def test_skill_lists_reads_and_searches(skills: SkillFolder) -> None:
    toolbox = Toolbox(FakeShell(), skills)
    assert toolbox.skill("list") == {"skills": [{"name": "one", "description": "d"}]}
    assert toolbox.skill("read", "one") == {"text": "---\ndescription: d\n---\nneedle\n"}
    assert toolbox.skill("search", query="NEEDLE") == {"matches": ["one/SKILL.md:4: needle"]}
    cut = toolbox.skill("read", "one", "long.md")
    assert len(cut["text"]) == 65536
    assert cut["cut"] == "34464 bytes at the end are not shown"


def test_what_a_model_asks_wrongly_is_told_to_it(skills: SkillFolder, tmp_path: Path) -> None:
    toolbox = Toolbox(FakeShell(), skills)
    assert toolbox.skill("read", "one", "../../x") == {
        "error": "a path is relative and has no empty, '.', '..', overlong or unprintable part"
    }
    for answer in (toolbox.skill("read", "one", "/etc/passwd"), toolbox.skill("read", "two")):
        assert list(answer) == ["error"]
        assert str(tmp_path) not in answer["error"]
    assert Toolbox(FakeShell(), None).skill("list") == {"error": "this profile has no skills"}


def test_the_gate_lets_through_what_is_named_in_a_fixed_order() -> None:
    assert gate(["skill", "exec"]) == gate(("exec", "skill", "exec")) == ("exec", "skill")
    assert gate(["skill"]) == ("skill",)
    assert gate([]) == ()


@pytest.mark.parametrize(("name", "hint"), [("skills", "did you mean 'skill'?"), ("http", "remove it")])
def test_a_tool_that_there_is_not_is_an_error(name: str, hint: str) -> None:
    with pytest.raises(NsharnessError) as caught:
        gate(["exec", name])
    assert hint in str(caught.value)
