"""The tools: what a model is told of them, and what is wrong with the arguments that it gives (pure)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

MAX_SECONDS: Final = 600.0
"""How long a model may let one command run."""
DEFAULT_SECONDS: Final = 60.0
MAX_COMMAND: Final = 256 * 1024
"""Bytes of one command, in UTF-8."""
MAX_PATH: Final = 4095
"""Bytes of a path: PATH_MAX without its NUL (limits.h(0p))."""
MAX_CONTENT: Final = 8 * 1024 * 1024
"""Bytes of a file that is written with one call, in UTF-8."""
_SHOWN: Final = 60


class BadCallError(Exception):
    """What a model did wrong, in words for the model. They are short whatever it gave."""


@dataclass(frozen=True, slots=True)
class Text:
    """An argument that is text, of ``limit`` bytes in UTF-8 at most."""

    name: str
    description: str
    limit: int
    may_be_blank: bool = False
    may_have_nul: bool = False

    def schema(self) -> dict[str, Any]:
        """As JSON Schema."""
        return {"type": "string", "description": self.description}

    def checked(self, value: object) -> str:
        """The value; ``BadCallError`` when it will not do."""
        if not isinstance(value, str):
            raise BadCallError(f"{self.name} must be a string, not {_kind(value)}")
        try:
            size = len(value.encode())
        except UnicodeEncodeError:
            raise BadCallError(f"{self.name} has half of a surrogate pair, which is no text") from None
        if size > self.limit:
            raise BadCallError(f"{self.name} has {size} bytes; at most {self.limit} are taken")
        if not self.may_be_blank and not value.strip():
            raise BadCallError(f"{self.name} is empty")
        if not self.may_have_nul and "\0" in value:
            raise BadCallError(f"{self.name} has a NUL character")
        return value


@dataclass(frozen=True, slots=True)
class Seconds:
    """An argument that may be left out: a number, brought between 1 and ``MAX_SECONDS``."""

    name: str
    description: str

    def schema(self) -> dict[str, Any]:
        """As JSON Schema."""
        return {"type": "number", "description": self.description, "default": DEFAULT_SECONDS}

    def checked(self, value: object) -> float:
        """The value; ``BadCallError`` when it is no number."""
        if value is None:
            return DEFAULT_SECONDS
        if isinstance(value, bool) or not isinstance(value, int | float) or value != value:
            raise BadCallError(f"{self.name} must be a number, not {_kind(value)}")
        return float(min(max(value, 1.0), MAX_SECONDS))  # An integer may be too large for a float: first min.


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool as a model sees it."""

    name: str
    description: str
    arguments: tuple[Text | Seconds, ...]

    def schema(self) -> dict[str, Any]:
        """Its arguments as JSON Schema."""
        return {
            "type": "object",
            "properties": {each.name: each.schema() for each in self.arguments},
            "required": [each.name for each in self.arguments if isinstance(each, Text)],
            "additionalProperties": False,
        }

    def checked(self, given: object) -> dict[str, Any]:
        """All arguments by name; ``BadCallError`` when one is missing, unknown or of another kind."""
        if not isinstance(given, Mapping):
            raise BadCallError(f"the arguments must be an object, not {_kind(given)}")
        known = [each.name for each in self.arguments]
        for name in given:
            if name not in known:
                raise BadCallError(f"there is no argument {shown(name)}; {self.name} has {', '.join(known)}")
        for each in self.arguments:
            if isinstance(each, Text) and each.name not in given:
                raise BadCallError(f"the argument {each.name} is missing")
        return {each.name: each.checked(given.get(each.name)) for each in self.arguments}


_PATH: Final = "Absolute, or relative to the folder in which the shell began."

TOOLS: Final = (
    Tool(
        "shell",
        "Run a command with bash, in a sandbox. It is one shell for the whole session: cd, variables and "
        "background jobs last. Gives exit_code, stdout, stderr, and cwd, where the shell is afterwards; the "
        "middle of long output is left out. Credentials are added to permitted requests outside the sandbox.",
        (
            Text("command", "What bash is to run; may have several lines.", MAX_COMMAND),
            Seconds("seconds", f"How long it may take, up to {MAX_SECONDS:g}; then it is ended."),
        ),
    ),
    Tool(
        "read_file",
        "Read a text file in the sandbox from its beginning. Of a long one use shell to see other parts.",
        (Text("path", _PATH, MAX_PATH),),
    ),
    Tool(
        "write_file",
        "Create or replace a text file in the sandbox. Its folder must be there.",
        (
            Text("path", _PATH, MAX_PATH),
            Text("content", "The whole new content.", MAX_CONTENT, may_be_blank=True, may_have_nul=True),
        ),
    ),
)


def tool_named(name: object) -> Tool:
    """One of ``TOOLS``; ``BadCallError`` for another name."""
    for tool in TOOLS:
        if tool.name == name:
            return tool
    raise BadCallError(f"there is no tool {shown(name)}; the tools are {', '.join(t.name for t in TOOLS)}")


def shown(value: object) -> str:
    """A name that somebody chose, in ASCII and short."""
    text = value if isinstance(value, str) else _kind(value)
    return ascii(text[:_SHOWN]) + ("…" if len(text) > _SHOWN else "")


def _kind(value: object) -> str:
    if value is None:
        return "null"
    if value != value:
        return "NaN"
    names = ((bool, "a boolean"), (str, "a string"), (int | float, "a number"), (Mapping, "an object"))
    return next((name for kind, name in names if isinstance(value, kind)), "a list or something else")
