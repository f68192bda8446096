"""One call of a tool, carried out in a sandbox.

Whatever goes wrong is a result that the model is told (``error``): a wrong argument, a command that took too
long, a sandbox that has ended. How a command ended is no error.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

from nsharness.errors import NsharnessError
from nsharness.tools.definitions import BadCallError, tool_named

MAX_OUTPUT: Final = 24_000
"""Characters of a command's output that a model is shown at most, for stdout and stderr each."""
MAX_READ: Final = 100_000
"""Bytes of a file that are read with one call."""
_MAX_ERROR: Final = 2_000


class ShellResult(Protocol):
    """How one command ended; see ``nsharness.supervisor.shell.ShellResult``."""

    @property
    def exit_code(self) -> int: ...
    @property
    def stdout(self) -> str: ...
    @property
    def stderr(self) -> str: ...
    @property
    def cwd(self) -> str: ...
    @property
    def timed_out(self) -> bool: ...
    @property
    def stdout_bytes(self) -> int: ...
    @property
    def stderr_bytes(self) -> int: ...
    @property
    def truncated(self) -> bool: ...


class ShellPort(Protocol):
    """One shell that keeps its state between commands."""

    def run(self, command: str, timeout: float = 60.0) -> ShellResult:
        """Run ``command`` and wait, at most ``timeout`` seconds."""
        ...


class Box(Protocol):
    """What the tools work in: a ``Sandbox``, for instance."""

    @property
    def shell(self) -> ShellPort: ...

    def read(self, path: str, limit: int = 1_000_000) -> bytes: ...
    def write(self, path: str, data: bytes) -> None: ...


class Boxes(Protocol):
    """A ``Sandbox``: gives what one call works in, and a function that ends it early, from any thread."""

    def one_call(self) -> tuple[Box, Callable[[], None]]: ...


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model is told of its call: JSON values of bounded size."""

    report: dict[str, Any]

    @property
    def is_error(self) -> bool:
        """Whether the call failed. A command's exit code does not decide that."""
        return "error" in self.report


def call(box: Box, name: object, arguments: object) -> Answer:
    """Carry out one call, in the calling thread, and wait for its end. What a model gave or the sandbox did
    raises nothing."""
    try:
        tool = tool_named(name)
        return Answer(_CARRY_OUT[tool.name](box, tool.checked(arguments)))
    except (BadCallError, NsharnessError) as error:
        return failed(str(error))
    except OSError as error:
        return failed(f"nsharness could not do it: {error.strerror or type(error).__name__}")


def failed(why: str) -> Answer:
    """The answer to a call that cannot be carried out."""
    return Answer({"error": clip(why, _MAX_ERROR)})


def shell_report(result: ShellResult, seconds: float) -> dict[str, Any]:
    """How a command ended that had ``seconds``."""
    report: dict[str, Any] = {
        "exit_code": result.exit_code,
        "stdout": clip(result.stdout),
        "stderr": clip(result.stderr),
        "cwd": clip(result.cwd),
    }
    if result.timed_out:
        report["error"] = f"the command was ended after {seconds:g} seconds"
    if result.truncated:
        report["cut"] = (
            f"it wrote {result.stdout_bytes} bytes to stdout and {result.stderr_bytes} to stderr; "
            "not all of them are shown"
        )
    return report


def _shell(box: Box, arguments: Mapping[str, Any]) -> dict[str, Any]:
    seconds = arguments["seconds"]
    return shell_report(box.shell.run(arguments["command"], seconds), seconds)


def _read(box: Box, arguments: Mapping[str, Any]) -> dict[str, Any]:
    path = arguments["path"]
    data = box.read("./-" if path == "-" else path, MAX_READ + 1)  # "-" would be standard input to head(1)
    kept = data[:MAX_READ]
    more = len(data) > MAX_READ
    try:
        # A character that the cut went through is left out.
        text = codecs.getincrementaldecoder("utf-8")().decode(kept, final=not more)
    except UnicodeDecodeError:
        return {"error": "the file is no text in UTF-8: use shell, for instance with base64 or xxd"}
    report: dict[str, Any] = {"content": text}
    if more:
        report["cut"] = f"only the first {len(text.encode())} bytes are shown; use shell for the rest"
    return report


def _write(box: Box, arguments: Mapping[str, Any]) -> dict[str, Any]:
    data = arguments["content"].encode()
    box.write(arguments["path"], data)
    return {"written_bytes": len(data)}


_CARRY_OUT: Final[dict[str, Callable[[Box, Mapping[str, Any]], dict[str, Any]]]] = {
    "shell": _shell,
    "read_file": _read,
    "write_file": _write,
}


def clip(text: str, limit: int = MAX_OUTPUT) -> str:
    """``text`` with its middle left out where it is longer than ``limit``, and a line that says how much.

    Lone surrogates, which stand for bytes that were no UTF-8, become question marks: no provider takes them.
    """
    text = text.encode("utf-8", "replace").decode()
    if len(text) <= limit:
        return text
    head, tail = limit * 3 // 4, limit // 4
    return f"{text[:head]}\n[{len(text) - head - tail} characters left out]\n{text[len(text) - tail :]}"
