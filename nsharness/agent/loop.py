"""One turn of the agent: the model is asked, its tool calls are carried out, until it answers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from nsharness.agent.ports import ShellPort
from nsharness.agent.skills import SkillFolder
from nsharness.agent.tools import Ran, Toolbox, gate
from nsharness.errors import NsharnessError

SCRIPTED: Final = "scripted"
"""The name of the offline model."""


@dataclass(frozen=True, slots=True)
class Turn:
    """How a turn ended: what the model answered, and the commands that it ran."""

    answer: str
    commands: tuple[Ran, ...]

    @property
    def succeeded(self) -> bool:
        """Whether the last command did: what came before it may have been a try that the model put right."""
        return all(ran.succeeded for ran in self.commands[-1:])


def run_turn(
    *,
    prompt: str,
    system_prompt: str,
    model: str,
    allowed_tools: Iterable[str],
    shell: ShellPort,
    skills: SkillFolder | None,
) -> Turn:
    """Take one turn. ``model`` is ``scripted`` or what pydantic-ai takes: ``openai:…``, ``anthropic:…``.

    ``NsharnessError`` when the model or a tool is unknown, or the model cannot be asked; what ``shell``
    raises comes through as it is. Commands run in the calling thread, one at a time, so Ctrl-C interrupts
    them.
    """
    tools = gate(allowed_tools)
    check_model(model)
    toolbox = Toolbox(shell, skills)

    from nsharness.agent.engine import ask

    answer = ask(model, system_prompt, prompt, tools, toolbox)
    return Turn(answer.encode("utf-8", "replace").decode(), toolbox.ran)


def check_model(model: str) -> None:
    """``NsharnessError`` unless ``model`` is ``scripted`` or has the form ``provider:name``."""
    provider, colon, name = model.partition(":")
    if model != SCRIPTED and not (provider and colon and name):
        raise NsharnessError(
            f"unknown model {model!r}",
            why=f"a model is {SCRIPTED!r} or provider:name",
            hint="for example --model anthropic:NAME or --model openai:NAME",
        )
