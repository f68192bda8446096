"""What the numbered steps of a SKILL.md mean to somebody who does them without thinking. Pure.

The conventions are plain enough for a person and for a language model, and exact enough for a program:

- A step is a numbered line (``1. Read the snippet.``) with a fenced ``sh`` block below it: one command,
  run as it is written. A numbered line without a block is advice.
- ``Expect: a line that starts with `Fact: `.`` stops the procedure unless the command printed such a line.
- ``Keep: the rest of that line as `FACT`.`` puts what follows in that line into a variable of the shell, so
  that later commands can say ``"$FACT"``.
- A command that fails stops the procedure.

An ``Expect`` or ``Keep`` that is worded differently is an error, not advice: a check that silently did
not happen would be worse than none.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass

_NUMBERED = re.compile(r"(?P<number>[1-9]\d{0,2})\.\s+(?P<title>\S.*)")
_FENCE = re.compile(r"(?P<indent>\s*)(?P<ticks>`{3,})\s*(?P<language>[\w+-]*)\s*")
_EXPECT = re.compile(r"Expect: a line that starts with `(?P<start>[^`]+)`\.?")
_KEEP = re.compile(r"Keep: the rest of that line as `(?P<name>[A-Z][A-Z0-9_]{0,31})`\.?")
_SHELLS = frozenset({"sh", "bash", "shell"})


class ProcedureError(Exception):
    """A SKILL.md that cannot be followed literally; the text says where and why."""


@dataclass(frozen=True, slots=True)
class Step:
    """One command of a procedure. ``expect`` and ``keep`` speak about what it prints."""

    number: int
    title: str
    command: str
    expect: str | None = None
    keep: str | None = None

    @property
    def label(self) -> str:
        return f"step {self.number} ({self.title.rstrip('.')})"


def parse(text: str) -> tuple[Step, ...]:
    """The commands of a SKILL.md in order. ``ProcedureError`` when there are none or one is unclear."""
    steps: list[Step] = []
    number, title = 0, ""
    lines = enumerate(text.splitlines(), 1)
    for at, line in lines:
        bare = line.strip()
        if match := _FENCE.fullmatch(line):
            body = _block(lines, match, at)
            if match["language"] in _SHELLS and number:
                steps.append(Step(number, title, body))
        elif match := _NUMBERED.fullmatch(line.rstrip()):
            number, title = int(match["number"]), match["title"]
        elif line.startswith("#"):
            number, title = 0, ""
        elif bare.startswith(("Expect:", "Keep:")) and number:
            if not steps or steps[-1].number != number:
                raise ProcedureError(f"line {at}: '{bare}' has no command before it")
            steps[-1] = _with_condition(steps[-1], bare, at)
    if not steps:
        raise ProcedureError("no numbered step with an sh block")
    return tuple(steps)


def kept_value(step: Step, stdout: str) -> str | None:
    """The rest of the first line that begins as ``step.expect`` says, or None when no line does."""
    if step.expect is None:
        return ""
    for line in stdout.splitlines():
        if line.startswith(step.expect):
            return line[len(step.expect) :].strip()
    return None


def keeping(name: str, value: str) -> str:
    """The command that puts ``value`` into a variable of the shell, quoted so that it is only text."""
    return f"{name}={shlex.quote(value)}"


def _block(lines: enumerate[str], fence: re.Match[str], opened: int) -> str:
    """The text of a fenced block, without the indentation of its fence."""
    indent = fence["indent"]
    body: list[str] = []
    for _, line in lines:
        if line.strip().startswith(fence["ticks"]) and not line.strip().strip("`"):
            if not any(part.strip() for part in body):
                raise ProcedureError(f"line {opened}: the block is empty")
            return "\n".join(body).rstrip()
        body.append(line.removeprefix(indent))
    raise ProcedureError(f"line {opened}: the block is never closed")


def _with_condition(step: Step, text: str, at: int) -> Step:
    if text.startswith("Expect:") and step.expect is None and (match := _EXPECT.fullmatch(text)):
        return Step(step.number, step.title, step.command, match["start"], step.keep)
    if text.startswith("Keep:") and step.expect is not None and (match := _KEEP.fullmatch(text)):
        return Step(step.number, step.title, step.command, step.expect, match["name"])
    raise ProcedureError(f"line {at}: '{text}' is not one of the known forms, or not in its place")
