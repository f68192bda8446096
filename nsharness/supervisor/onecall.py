"""A sandbox for one call of a tool, which can be ended early."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from nsharness.supervisor.cancel import Cancel
from nsharness.supervisor.sandbox import NamespaceSandbox
from nsharness.supervisor.shell import ShellResult


@dataclass(frozen=True, slots=True)
class OneCall:
    """The sandbox, as the tools use it; ``cancel`` ends what it does."""

    sandbox: NamespaceSandbox
    cancel: Cancel

    @property
    def shell(self) -> OneCall:
        """What runs commands."""
        return self

    def run(self, command: str, timeout: float = 60.0) -> ShellResult:
        """See ``Shell.run``."""
        return self.sandbox.shell.run(command, timeout, self.cancel)

    def read(self, path: str, limit: int = 1_000_000) -> bytes:
        """See ``NamespaceSandbox.read_file``."""
        return self.sandbox.read_file(path, limit, self.cancel)

    def write(self, path: str, data: bytes) -> None:
        """See ``NamespaceSandbox.write_file``."""
        self.sandbox.write_file(path, data, self.cancel)


def one_call(sandbox: NamespaceSandbox) -> tuple[OneCall, Callable[[], None]]:
    """What one call works in, and a function that ends the call early, from any thread."""
    cancel = Cancel()
    return OneCall(sandbox, cancel), cancel.give
