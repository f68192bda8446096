"""From requests that were seen to the smallest rules that allow them. Pure.

Hosts and ports are taken as they were, methods too. Paths are generalised, in this order, as far as it takes:
segments that look like an identifier become ``*``; then, while a host has more than ``MAX_PATHS``, so do
segments in which many paths differ; then everything below a first segment is taken together, then everything.
Each step allows more, none allows another host.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Any, Final

from nsharness.policy.amend import rule_name
from nsharness.policy.paths import PathError, PathGlob
from nsharness.policy.request import DEFAULT_PORTS, TOKEN, Scheme

MAX_PATHS: Final = 10
"""Paths in the rules for one host and port, before they are generalised further."""
_SIBLINGS: Final = 3

LEARNING_PORTS: Final = (80, 443, 3000, 5000, 8000, 8080, 8081, 8443, 8888, 9000, 9443)
"""Ports that can be reached while learning: what web servers are found at."""

# Numbers; hashes; UUIDs; dates; long words with digits in them.
_IDENTIFIER: Final = re.compile(
    r"[0-9]+|(?=[a-f]*[0-9])[0-9a-f]{7,}|[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}"
    r"|[0-9]{4}-[0-9]{2}-[0-9]{2}|(?=[A-Za-z_-]*[0-9])[A-Za-z0-9_-]{20,}"
)


@dataclass(frozen=True, slots=True)
class Seen:
    """One request: host canonical, path normalised. ``cut`` says that the path was longer than what is here,
    and that its last segment may be a part of one."""

    method: str
    scheme: Scheme
    host: str
    port: int
    path: str
    cut: bool = False


def learning_rule(taken: Collection[str] = ()) -> dict[str, Any]:
    """The rule that is in force while requests are seen: every public host, looked into, with no credential.
    It belongs at the end of a profile, whose own rules come first then."""
    name = "learn"
    while name in taken:
        name += "-"
    return {
        "name": name,
        "hosts": ("*",),
        "allow_any": True,
        "inspect": True,
        "ports": LEARNING_PORTS,
    }


def proposed(seen: Iterable[Seen], taken: Collection[str] = ()) -> list[dict[str, Any]]:
    """Rules, as a profile has them, that allow everything that was seen and as little else as may be. None of
    their names is in ``taken``."""
    targets: dict[tuple[str, int], dict[str, set[str]]] = {}
    for each in seen:
        port = 0 if each.port == DEFAULT_PORTS[each.scheme] else each.port
        methods = targets.setdefault((each.host, port), {}).setdefault(_glob(each), set())
        methods.add(each.method if _is_writable(each.method) else "")
    names = set(taken)
    rules: list[dict[str, Any]] = []
    for (host, port), globs in sorted(targets.items()):
        for allowed, paths in _by_methods(_reduced(globs)):
            rule: dict[str, Any] = {"name": rule_name("learned", host, names), "hosts": [host]}
            names.add(rule["name"])
            if "" not in allowed:
                rule["methods"] = sorted(allowed)
            rule["paths"] = sorted(paths)
            if port:
                rule["ports"] = [port]
            rules.append(rule)
    return rules


def _is_writable(method: str) -> bool:
    """Whether a rule can name a method."""
    return (
        TOKEN.fullmatch(method) is not None
        and method == method.upper()
        and method not in ("CONNECT", "TRACE")
    )


def _glob(seen: Seen) -> str:
    segments = [_escaped(segment) for segment in seen.path[1:].split("/")]
    if seen.cut:
        segments[-1] = "**"
    glob = "/" + "/".join("*" if _IDENTIFIER.fullmatch(segment) else segment for segment in segments)
    for candidate in (glob, "/" + "/".join(segments)):
        try:
            if PathGlob.parse(candidate).matches(seen.path):
                return candidate
        except PathError:
            continue
    return "/**"


def _escaped(segment: str) -> str:
    """A segment that stands for itself."""
    return segment.replace("*", "%2A")


def _reduced(globs: dict[str, set[str]]) -> dict[str, set[str]]:
    """Fewer globs that match all that these do, each with the methods of those that it stands for."""
    while len(globs) > MAX_PATHS and (merged := _merged(globs)) is not None:
        globs = merged
    for shorten in (_below_first, lambda _: "/**"):
        if len(globs) > MAX_PATHS:
            globs = _renamed(globs, shorten)
    return globs


def _merged(globs: dict[str, set[str]]) -> dict[str, set[str]] | None:
    """With one segment made ``*``, the one in which most paths differ; None where too few do."""
    families: dict[tuple[int, tuple[str, ...]], set[str]] = {}
    for glob in globs:
        segments = glob[1:].split("/")
        if "**" in segments:
            continue
        for place, segment in enumerate(segments):
            if segment:
                rest = (*segments[:place], "*", *segments[place + 1 :])
                families.setdefault((place, rest), set()).add(glob)
    largest = max(families.items(), key=lambda family: (len(family[1]), family[0]), default=None)
    if largest is None or len(largest[1]) < _SIBLINGS:
        return None
    (_, common), members = largest
    return _renamed(globs, lambda glob: "/" + "/".join(common) if glob in members else glob)


def _below_first(glob: str) -> str:
    first, slash, _ = glob[1:].partition("/")
    return f"/{first}/**" if slash and first != "**" else glob


def _renamed(globs: dict[str, set[str]], rename: Callable[[str], str]) -> dict[str, set[str]]:
    made: dict[str, set[str]] = {}
    for glob, methods in globs.items():
        made.setdefault(rename(glob), set()).update(methods)
    return made


def _by_methods(globs: dict[str, set[str]]) -> list[tuple[frozenset[str], list[str]]]:
    """The globs together that have the same methods: a rule allows all of its methods on all of its paths."""
    groups: dict[frozenset[str], list[str]] = {}
    for glob, methods in globs.items():
        groups.setdefault(frozenset(methods), []).append(glob)
    return sorted(groups.items(), key=lambda group: sorted(group[0]))
