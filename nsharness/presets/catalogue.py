"""The presets that come with nsharness: which there are, and what each says."""

from __future__ import annotations

import difflib
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from nsharness.errors import NsharnessError

_FOLDER: Final = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Preset:
    """One data file. ``rules`` are written as in a profile.

    ``secrets`` says for each secret, as ``secret-name.key``, what it is; ``git`` are settings that git gets
    through its environment. ``settings`` names whose configuration the hosts come from, a key of
    ``settings.FINDERS``, and ``registry`` is the rule for each of them, without its hosts; both are empty
    where the rules name all hosts.
    """

    name: str
    about: str
    secrets: dict[str, str] = field(default_factory=dict)
    env: dict[str, str] = field(default_factory=dict)
    git: dict[str, str] = field(default_factory=dict)
    rules: tuple[dict[str, Any], ...] = ()
    settings: str = ""
    registry: dict[str, Any] = field(default_factory=dict)
    credential: dict[str, str] = field(default_factory=dict)
    """The headers for a registry to which the configuration has credentials."""


def names() -> list[str]:
    """In alphabetical order."""
    return sorted(path.stem for path in _FOLDER.glob("*.toml"))


def load(name: str) -> Preset:
    """The preset of this name; ``NsharnessError`` with the nearest name for one that is none."""
    known = names()
    if name not in known:
        near = difflib.get_close_matches(name, known, 1, 0.5)
        hint = f"did you mean {near[0]}?" if near else "nsharness presets lists them"
        raise NsharnessError(f"unknown preset {name[:40]!a}", hint=hint)
    data = tomllib.loads((_FOLDER / f"{name}.toml").read_text(encoding="utf-8"))
    return Preset(name=name, rules=tuple(data.pop("rules", ())), **data)
