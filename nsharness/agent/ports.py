"""What the agent needs from others, as protocols: a shell, a sandbox, a console, a checkpoint store."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from nsharness.tools.calls import ShellPort, ShellResult

__all__ = ["Checkpoint", "Checkpoints", "Console", "SandboxPort", "ShellPort", "ShellResult"]


class SandboxPort(Protocol):
    """A sandbox that is already running."""

    @property
    def id(self) -> str: ...

    @property
    def shell(self) -> ShellPort: ...

    def read_file(self, path: str, limit: int = 1_000_000) -> bytes:
        """The content of a file inside the sandbox, at most ``limit`` bytes of it."""
        ...

    def write_file(self, path: str, data: bytes) -> None:
        """Create or replace a file inside the sandbox."""
        ...


class Console(Protocol):
    """Told what happens, as it happens; whoever implements it decides what is printed.

    ``command`` and the result's text were chosen by a model or come from inside the sandbox: they may
    contain control characters, which must not reach a terminal as they are.
    """

    def checkpoint_started(self, name: str) -> None: ...
    def checkpoint_finished(self, name: str, seconds: float) -> None: ...
    def checkpoint_cached(self, name: str) -> None: ...
    def command_started(self, command: str) -> None: ...
    def command_finished(self, result: ShellResult) -> None: ...


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a finished turn left: its answer, the files that were read out of the sandbox, its duration."""

    answer: str
    files: tuple[tuple[str, bytes], ...]
    seconds: float


class Checkpoints(Protocol):
    """Finished turns by key. Every method may raise ``NsharnessError``."""

    def load(self, key: str) -> Checkpoint | None: ...
    def save(self, key: str, name: str, checkpoint: Checkpoint) -> None: ...
    def forget(self, key: str) -> None: ...
