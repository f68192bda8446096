"""A profile's text with one more rule at its end: everything that stood there stays as it was. Pure."""

from __future__ import annotations

import json
import re

from nsharness.errors import NsharnessError
from nsharness.policy.load import parse_profile

_NAME_LENGTH = 64


def with_host(text: str, host: str, source: str, *, when: str) -> str:
    """The text with a rule for a canonical host, and a comment that says where it is from and ``when``.

    ``NsharnessError`` where the result would not be the same profile with that rule as its last: an array of
    rules that is written in one piece takes no further ones, for instance.
    """
    before = parse_profile(text, source, default_name="profile")
    names = {rule.name for rule in before.sandbox_proxy_rules}
    newline = "\r\n" if "\r\n" in text else "\n"
    gap = "" if not text or text.endswith("\n") else newline
    added = rule_text(host, when=when, taken=names).replace("\n", newline)
    made = f"{text}{gap}{newline if text else ''}{added}"
    after = parse_profile(made, source, default_name="profile")
    *others, last = after.sandbox_proxy_rules
    same = after.model_copy(update={"sandbox_proxy_rules": tuple(others)}) == before
    if not same or last.hosts != (host,) or last.deny:
        raise NsharnessError(f"profile {source}", why="a rule cannot be added at its end")
    return made


def rule_text(host: str, *, when: str, taken: set[str] | frozenset[str] = frozenset()) -> str:
    """The rule that an answer of "always" is, as a person would write it."""
    lines = [
        f"# Added by nsharness on {when}: a run asked for this host, and the answer was always.",
        "[[sandbox_proxy_rules]]",
        f"name = {json.dumps(rule_name('asked', host, taken))}",
        f"hosts = {json.dumps([host])}",
        "inspect = true",
    ]
    return "".join(f"{line}\n" for line in lines)


def rule_name(prefix: str, host: str, taken: set[str] | frozenset[str] = frozenset()) -> str:
    """A rule's name that has a host in it and that no other rule has."""
    stem = re.sub(r"[^A-Za-z0-9_.-]", "-", f"{prefix}-{host}")[:_NAME_LENGTH]
    name, number = stem, 2
    while name in taken:
        name = f"{stem[: _NAME_LENGTH - 4]}-{number}"
        number += 1
    return name
