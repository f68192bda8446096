"""The scripted model's moves, as a table of conversations."""

from __future__ import annotations

import re
from typing import Any

import pytest

from nsharness.agent.script import Answer, Call, Task, next_move

BOTH = frozenset({"exec", "skill"})
TASK = Task("do it", "", BOTH)
LIST = {"skills": [{"name": "one", "description": ""}]}
SKILL = {
    "text": """\
1. Get it.
   ```sh
   get
   ```
   Expect: a line that starts with `Fact: `.
   Keep: the rest of that line as `FACT`.
2. Show it.
   ```sh
   show
   ```
"""
}


def ran(stdout: str = "", exit_code: int = 0, **more: Any) -> dict[str, Any]:
    return {"exit_code": exit_code, "stdout": stdout, "stderr": "", "cwd": "/tmp", **more}


def text(task: Task, *results: dict[str, Any]) -> str:
    move = next_move(task, results)
    assert isinstance(move, Answer)
    return move.text


def test_it_looks_the_skill_up_reads_it_and_does_its_steps() -> None:
    results: list[dict[str, Any]] = []
    conversation: list[tuple[Call, dict[str, Any]]] = [
        (Call("skill", {"action": "list"}), LIST),
        (Call("skill", {"action": "read", "name": "one"}), SKILL),
        (Call("exec", {"command": "get"}), ran("{}\nFact: it's so; rm -rf /\n")),
        (Call("exec", {"command": "FACT='it'\"'\"'s so; rm -rf /'"}), ran()),
        (Call("exec", {"command": "show"}), ran("it is\n")),
    ]
    for expected, result in conversation:
        assert next_move(TASK, results) == expected
        results.append(result)
    assert text(TASK, *results) == "I followed the skill `one` (2 commands). The last one printed:\nit is"


@pytest.mark.parametrize(
    ("results", "words"),
    [
        ([ran('{"error": "unauthorized"}\n')], 'step 1 (Get it): it did not print .*"unauthorized"'),
        ([ran("", 7, stderr="no route\n")], "step 1 (Get it): exit status 7. It printed: no route"),
        ([ran("", error="the command was ended after 60 seconds")], "step 1 (Get it): the command was ended"),
        ([{"error": "refused"}], "step 1 (Get it): refused. It printed: nothing"),
        ([ran("Fact: x"), ran("", 1)], "step 1 (Get it): exit status 1"),
        ([ran("Fact: x"), ran(), ran("x" * 999, 2)], "step 2 (Show it): exit status 2. It printed: x{300}…$"),
    ],
)
def test_it_stops_at_the_first_step_that_fails_and_says_so(results: list[dict[str, Any]], words: str) -> None:
    answer = text(TASK, LIST, SKILL, *results)
    pattern = words.replace("(", r"\(").replace(")", r"\)")
    assert re.match(f"I stopped at {pattern}", answer), answer


@pytest.mark.parametrize(
    ("task", "listing", "words"),
    [
        (Task("do it", "", frozenset({"exec"})), LIST, "no `skill` tool"),
        (TASK, {"skills": []}, "There is no skill"),
        (TASK, {"error": "this profile has no skills"}, "this profile has no skills"),
        (TASK, {"skills": [{"name": "one"}, {"name": "two"}]}, "Name one of these skills .*one, two"),
    ],
)
def test_without_a_skill_to_follow_it_says_what_is_missing(task: Task, listing: Any, words: str) -> None:
    assert re.search(words, text(task, listing))


def test_among_several_skills_it_takes_the_one_that_the_request_names() -> None:
    listing = {"skills": [{"name": "one"}, {"name": "two"}]}
    for task in (Task("please two", "", BOTH), Task("please", "use two.", BOTH)):
        assert next_move(task, [listing]) == Call("skill", {"action": "read", "name": "two"})


@pytest.mark.parametrize(
    ("read", "words"),
    [
        ({"error": "there is no file one/SKILL.md"}, "cannot read the skill `one`: there is no file"),
        ({"text": "1. A", "cut": "9 bytes at the end are not shown"}, "cannot read the skill `one`: 9 bytes"),
        ({"text": "# nothing"}, "cannot follow the skill `one`: no numbered step"),
    ],
)
def test_a_skill_that_cannot_be_followed_is_not_followed_in_part(read: dict[str, Any], words: str) -> None:
    assert words in text(TASK, LIST, read)


def test_without_exec_it_reads_but_runs_nothing() -> None:
    assert "no `exec` tool" in text(Task("", "", frozenset({"skill"})), LIST, SKILL)
