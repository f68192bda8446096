"""The flow of stage 4: one turn of the agent in a running sandbox, as a checkpoint.

Whoever calls it has opened the mock services, the proxy and the sandbox, in one ``with``. Nothing is
printed here: the console is told.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from nsharness import __version__
from nsharness.agent.checkpoints import checkpoint_key
from nsharness.agent.loop import Turn, check_model, run_turn
from nsharness.agent.ports import Checkpoint, Checkpoints, Console, SandboxPort, ShellPort, ShellResult
from nsharness.agent.skills import SkillFolder
from nsharness.agent.tools import gate
from nsharness.errors import NsharnessError
from nsharness.stages import stage4

if TYPE_CHECKING:
    from nsharness.policy.profile import Profile

CHECKPOINT: Final = "default"
PROMPT: Final = "What does the wiki say about durability? Keep the fact in /tmp/summary.txt."
SUMMARY: Final = "/tmp/summary.txt"
"""Where the agent leaves the summary, inside the sandbox."""
MAX_SUMMARY: Final = 64 * 1024
"""Bytes that a summary has at most."""


@dataclass(frozen=True, slots=True)
class Stage4Result:
    """What the agent answered and wrote. ``seconds``: what this run took, or the cached one took then."""

    answer: str
    summary: bytes
    cached: bool
    seconds: float


@dataclass(frozen=True, slots=True)
class _ToldShell:
    """A shell that tells the console about each command."""

    shell: ShellPort
    console: Console

    def run(self, command: str, timeout: float = 60.0) -> ShellResult:
        self.console.command_started(command)
        result = self.shell.run(command, timeout)
        self.console.command_finished(result)
        return result


def run_stage4(
    sandbox: SandboxPort,
    console: Console,
    checkpoints: Checkpoints,
    *,
    profile: Profile | None = None,
    model: str | None = None,
    prompt: str = PROMPT,
    disable_cache: bool = False,
) -> Stage4Result:
    """Serve the turn from its checkpoint, or take it and save it.

    ``profile`` and ``model`` default to the stage's own. With ``disable_cache`` an earlier checkpoint is
    dropped first, everything is done again, and the new result takes its place. ``NsharnessError`` with exit
    code 1 when the agent ended without having done what it was asked; that is never saved.
    """
    profile = stage4.PROFILE if profile is None else profile
    model = profile.model if model is None else model
    check_model(model)
    skills = _skills(profile)
    key = checkpoint_key(
        profile=profile.model_dump(mode="json"),
        skills=skills.digest() if skills else "",
        prompt=prompt,
        model=model,
        tools=gate(profile.allowed_tools),
        version=__version__,
    )
    if disable_cache:
        checkpoints.forget(key)
    elif (found := checkpoints.load(key)) is not None:
        console.checkpoint_cached(CHECKPOINT)
        return Stage4Result(found.answer, dict(found.files)[SUMMARY], True, found.seconds)

    console.checkpoint_started(CHECKPOINT)
    started = time.monotonic()
    turn = run_turn(
        prompt=prompt,
        system_prompt=profile.system_prompt,
        model=model,
        allowed_tools=profile.allowed_tools,
        shell=_ToldShell(sandbox.shell, console),
        skills=skills,
    )
    summary = _summary(sandbox, turn)
    seconds = time.monotonic() - started
    checkpoints.save(key, CHECKPOINT, Checkpoint(turn.answer, ((SUMMARY, summary),), seconds))
    console.checkpoint_finished(CHECKPOINT, seconds)
    return Stage4Result(turn.answer, summary, False, seconds)


def _skills(profile: Profile) -> SkillFolder | None:
    """The profile's skills; a relative ``skill_source`` starts at the stage's folder."""
    if profile.skill_source is None:
        return None
    return SkillFolder(stage4.FOLDER / profile.skill_source)


def _summary(sandbox: SandboxPort, turn: Turn) -> bytes:
    """What the agent wrote; ``NsharnessError`` when it wrote nothing or stopped on the way."""
    failure = NsharnessError(
        "stage4 did not finish",
        why=turn.answer[:1000],
        hint="the audit log says what was denied",
        exit_code=1,
    )
    if not turn.succeeded:
        raise failure
    try:
        summary = sandbox.read_file(SUMMARY, MAX_SUMMARY)
    except (OSError, NsharnessError):
        raise failure from None
    if not summary.strip():
        raise failure
    return summary
