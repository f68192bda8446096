"""Profiles that extend others: which files, in which order, and how what they say becomes one. Pure.

What a file extends is its base. Of two files the one that extends is nearer to the reader: its keys replace
those of the base, its tables are merged into the base's key by key, its rules stand before the base's and
replace those of the same name, and its lists of shared and hidden paths are added to the base's.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from nsharness.errors import NsharnessError
from nsharness.frozen import frozen

MAX_FILES: Final = 32
"""More is taken for a mistake."""

_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)
_RULES: Final = "sandbox_proxy_rules"
_JOINED: Final = frozenset({"read_only", "read_write", "hide", "protect"})

Read = Callable[[Path], tuple[str, dict[str, Any]]]
"""The text of a file, and what it says; ``NsharnessError`` when it cannot be read or is no TOML."""


@frozen
class Source:
    """One file: its path, its text, and what it says, with paths made absolute."""

    path: Path
    text: str
    data: Mapping[str, Any]


def profiles_folder(home: Path, environ: Mapping[str, str]) -> Path:
    """Where a person's own profiles are (XDG Base Directory Specification)."""
    configured = environ.get("XDG_CONFIG_HOME", "")
    return (Path(configured) if configured.startswith("/") else home / ".config") / "nsharness"


def located(word: str, folder: Path, home: Path, environ: Mapping[str, str]) -> Path:
    """The file that a word means: a path, relative to ``folder``, or the name of a person's own profile."""
    if _NAME.fullmatch(word):
        return profiles_folder(home, environ) / f"{word}.toml"
    if word == "~" or word.startswith("~/"):
        return home / word[2:]
    return folder / word


def gather(path: Path, read: Read, locate: Callable[[str, Path], Path]) -> tuple[Source, ...]:
    """The file and everything that it extends, each once: bases before what extends them, in the order in
    which they are named. ``NsharnessError`` for a file that extends itself, by whatever way."""
    found: dict[str, Source] = {}

    def visit(path: Path, chain: tuple[str, ...]) -> None:
        real = str(path) if "\0" in str(path) else os.path.realpath(path)
        if real in chain:
            raise NsharnessError(
                f"profile {chain[-1]}, extends", why=f"{path} extends it in turn", hint="take one of them out"
            )
        if real in found:
            return
        if len(found) + len(chain) >= MAX_FILES:
            raise NsharnessError(f"profile {path}", why=f"more than {MAX_FILES} files extend each other")
        text, data = read(path)
        for word in _words(path, data):
            visit(locate(word, path.absolute().parent), (*chain, real))
        found[real] = Source(path, text, data)

    visit(path, ())
    return tuple(found.values())


def _words(path: Path, data: Mapping[str, Any]) -> list[str]:
    words = data.get("extends", [])
    words = [words] if isinstance(words, str) else words
    if not isinstance(words, list) or not all(isinstance(word, str) and word.strip() for word in words):
        raise NsharnessError(
            f"profile {path}, extends", why="it is a file's path or a profile's name, or a list of them"
        )
    return words


def joined(sources: tuple[Source, ...]) -> dict[str, Any]:
    """What all of them say together; the last one is the nearest. Bases lend no name."""
    *bases, nearest = sources
    merged: dict[str, Any] = {}
    for base in bases:
        merged = _onto(merged, {key: value for key, value in base.data.items() if key != "name"})
    merged = _onto(merged, nearest.data)
    merged.pop("extends", None)
    return merged


def _onto(base: Mapping[str, Any], nearer: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in nearer.items():
        under = merged.get(key)
        if key == _RULES and isinstance(value, list) and isinstance(under, list):
            names = {_rule_name(rule) for rule in value} - {None}
            merged[key] = [*value, *(rule for rule in under if _rule_name(rule) not in names)]
        elif isinstance(value, dict) and isinstance(under, dict):
            merged[key] = {**under, **_with_joined_lists(under, value, only=key == "filesystem")}
        else:
            merged[key] = value
    return merged


def _with_joined_lists(under: Mapping[str, Any], value: Mapping[str, Any], *, only: bool) -> dict[str, Any]:
    made = dict(value)
    for name in _JOINED & value.keys() & under.keys() if only else ():
        if isinstance(value[name], list) and isinstance(under[name], list):
            made[name] = [*under[name], *(each for each in value[name] if each not in under[name])]
    return made


def _rule_name(rule: object) -> object:
    name = rule.get("name") if isinstance(rule, Mapping) else None
    return name if isinstance(name, str) else None


def origin_of_rule(sources: tuple[Source, ...], name: str) -> Source | None:
    """The file whose rule of that name counts."""
    for source in reversed(sources):
        rules = source.data.get(_RULES)
        if isinstance(rules, list) and any(_rule_name(rule) == name for rule in rules):
            return source
    return None
