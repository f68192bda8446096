"""Shells that answer as a test says, and records of what was asked of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Result:
    """A ``ShellResult`` as a value."""

    stdout: str = ""
    exit_code: int = 0
    stderr: str = ""
    cwd: str = "/tmp"
    timed_out: bool = False
    stdout_bytes: int = 0
    stderr_bytes: int = 0
    truncated: bool = False


@dataclass(slots=True)
class FakeShell:
    """Answers each command through ``answer``; ``asked`` is every command with its time limit."""

    answer: Callable[[str], Result] = field(default=lambda _: Result())
    asked: list[tuple[str, float]] = field(default_factory=list)

    def run(self, command: str, timeout: float = 60.0) -> Result:
        self.asked.append((command, timeout))
        return self.answer(command)

    @property
    def commands(self) -> Sequence[str]:
        return [command for command, _ in self.asked]
