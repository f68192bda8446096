"""The two tools of the agent, ``exec`` and ``skill``, and the gate in front of them.

A tool's result is a plain dictionary. What a model did wrong is part of such a result (``error``), so that
it can do better; what nsharness could not do is an ``NsharnessError`` and ends the turn.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final, Literal

from nsharness.agent.ports import ShellPort
from nsharness.agent.skills import SkillError, SkillFolder
from nsharness.errors import NsharnessError
from nsharness.tools.calls import shell_report
from nsharness.tools.definitions import MAX_SECONDS

TOOL_NAMES: Final = ("exec", "skill")


@dataclass(frozen=True, slots=True)
class Ran:
    """A command that a turn has run, and how it ended."""

    command: str
    exit_code: int
    timed_out: bool

    @property
    def succeeded(self) -> bool:
        return self.exit_code == 0 and not self.timed_out


class Toolbox:
    """What the tools do, in ``shell`` and with ``skills``; it remembers the commands that it ran."""

    def __init__(self, shell: ShellPort, skills: SkillFolder | None) -> None:
        self._shell = shell
        self._skills = skills
        self._ran: list[Ran] = []

    @property
    def ran(self) -> tuple[Ran, ...]:
        return tuple(self._ran)

    def exec(self, command: str, seconds: float = 60.0) -> dict[str, Any]:
        """Run one command, for ``seconds`` at most; those are brought between 1 and ``MAX_SECONDS``."""
        if not command.strip() or "\0" in command:
            return {"error": "a command is some text without NUL"}
        seconds = min(max(seconds, 1.0), MAX_SECONDS) if seconds == seconds else 60.0  # a NaN is no wish
        result = self._shell.run(command, seconds)
        self._ran.append(Ran(command, result.exit_code, result.timed_out))
        return shell_report(result, seconds)

    def skill(
        self,
        action: Literal["list", "read", "search"],
        name: str = "",
        path: str = "SKILL.md",
        query: str = "",
    ) -> dict[str, Any]:
        """List the skills, read a file of one, or search them all."""
        if self._skills is None:
            return {"error": "this profile has no skills"}
        try:
            match action:
                case "list":
                    found = self._skills.skills()
                    return {"skills": [{"name": s.name, "description": s.description} for s in found]}
                case "read":
                    read = self._skills.read(name, path)
                    note = {"cut": f"{read.cut} bytes at the end are not shown"} if read.cut else {}
                    return {"text": read.text, **note}
                case "search":
                    matches = self._skills.search(query)
                    return {"matches": [f"{where}:{number}: {line}" for where, number, line in matches]}
        except SkillError as error:
            return {"error": str(error)}


def gate(allowed: Iterable[str]) -> tuple[str, ...]:
    """The tools that ``allowed`` names, in a fixed order; ``NsharnessError`` for a name that is no tool."""
    names = set(allowed)
    for name in sorted(names - set(TOOL_NAMES)):
        near = difflib.get_close_matches(name, TOOL_NAMES, 1)
        raise NsharnessError(
            f"allowed_tools names {name!r}",
            why=f"the tools are {' and '.join(TOOL_NAMES)}",
            hint=f"did you mean {near[0]!r}?" if near else "remove it from the profile",
        )
    return tuple(name for name in TOOL_NAMES if name in names)
