"""What the scripted model does next: a function of the conversation so far, and of nothing else. Pure.

It looks the skill up, reads it, and does its numbered steps one after the other, each conclusion drawn
from what the tools have answered. So what it does is decided by SKILL.md and by the sandbox, as with a
language model; only that it does not think.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nsharness.agent.procedure import ProcedureError, Step, keeping, kept_value, parse

_MAX_SHOWN = 300


@dataclass(frozen=True, slots=True)
class Task:
    """What the model was asked, and the names of the tools it was given."""

    prompt: str
    instructions: str
    tools: frozenset[str]


@dataclass(frozen=True, slots=True)
class Call:
    """Use a tool."""

    tool: str
    arguments: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Answer:
    """Say this, and be done."""

    text: str


def next_move(task: Task, results: Sequence[Mapping[str, Any]]) -> Call | Answer:
    """The next call, or the final answer. ``results``: what each call so far has returned, in order."""
    if "skill" not in task.tools:
        return Answer("I have no `skill` tool, so there is no procedure that I could follow.")
    if not results:
        return Call("skill", {"action": "list"})
    name = _choose(task, results[0])
    if isinstance(name, Answer):
        return name
    if len(results) == 1:
        return Call("skill", {"action": "read", "name": name})
    read = results[1]
    if "error" in read or "cut" in read:
        return Answer(f"I cannot read the skill `{name}`: {read.get('error') or read.get('cut')}.")
    try:
        steps = parse(str(read.get("text", "")))
    except ProcedureError as error:
        return Answer(f"I cannot follow the skill `{name}`: {error}.")
    if "exec" not in task.tools:
        return Answer(f"I have no `exec` tool, so I cannot follow the skill `{name}`.")
    return _follow(name, steps, results[2:])


def _choose(task: Task, listing: Mapping[str, Any]) -> str | Answer:
    """The only skill there is, or the only one that the request names."""
    names = [str(skill["name"]) for skill in listing.get("skills", ())]
    if not names:
        return Answer(f"There is no skill: {listing.get('error', 'the skills folder is empty')}.")
    request = f"{task.prompt}\n{task.instructions}"
    named = names if len(names) == 1 else [name for name in names if name in request]
    if len(named) != 1:
        return Answer(f"Name one of these skills in the request: {', '.join(names)}.")
    return named[0]


def _follow(name: str, steps: Sequence[Step], results: Sequence[Mapping[str, Any]]) -> Call | Answer:
    pending = iter(results)
    last: Mapping[str, Any] = {}
    for step in steps:
        result = next(pending, None)
        if result is None:
            return Call("exec", {"command": step.command})
        if stopped := _failed(step, result):
            return stopped
        last, value = result, kept_value(step, str(result["stdout"]))
        if value is None:
            return _stop(step, f"it did not print a line that starts with `{step.expect}`", result)
        if step.keep is not None:
            result = next(pending, None)
            if result is None:
                return Call("exec", {"command": keeping(step.keep, value)})
            if stopped := _failed(step, result):
                return stopped
    count = f"{len(steps)} commands" if len(steps) > 1 else "1 command"
    return Answer(f"I followed the skill `{name}` ({count}). The last one printed:\n{_output(last)}".rstrip())


def _failed(step: Step, result: Mapping[str, Any]) -> Answer | None:
    if "error" in result:
        return _stop(step, str(result["error"]), result)
    if result["exit_code"] != 0:
        return _stop(step, f"exit status {result['exit_code']}", result)
    return None


def _stop(step: Step, why: str, result: Mapping[str, Any]) -> Answer:
    shown = " ".join(_output(result).split())
    if len(shown) > _MAX_SHOWN:
        shown = f"{shown[:_MAX_SHOWN]}…"
    return Answer(f"I stopped at {step.label}: {why}. It printed: {shown or 'nothing'}")


def _output(result: Mapping[str, Any]) -> str:
    """What a command printed: stdout, and stderr where there is no stdout."""
    return (str(result.get("stdout", "")).strip() or str(result.get("stderr", ""))).strip()
