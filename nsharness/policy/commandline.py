"""A profile with what a command line adds to it: hosts, and headers for hosts. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from pydantic import ValidationError

from nsharness.errors import NsharnessError
from nsharness.policy.load import explain
from nsharness.policy.profile import Profile, SandboxProxyRule

_INJECT: Final = re.compile(r"\s*(?P<host>\S+):\s+(?P<header>[^\s=]+)\s*=\s*(?P<value>.*\S)\s*", re.ASCII)
_FORM: Final = "HOST: HEADER = VALUE with {{ secret-name.key }}"


@dataclass(frozen=True, slots=True)
class Addition:
    """Rules and variables that come with nsharness, ready to be added to a profile: a preset's.

    ``git`` are settings for git; ``secrets`` says what each secret is that the rules name.
    """

    name: str
    rules: tuple[Mapping[str, Any], ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    git: Mapping[str, str] = field(default_factory=dict)
    secrets: Mapping[str, str] = field(default_factory=dict)


def adjusted(
    profile: Profile,
    *,
    allow: Sequence[str] = (),
    inject: Sequence[str] = (),
    additions: Sequence[Addition] = (),
    **replaced: object,
) -> Profile:
    """The profile with a rule for each ``HOST[:PORT]`` of ``allow`` and each ``HOST: HEADER = VALUE`` of
    ``inject``, with ``additions``, and with keys replaced.

    The added rules come first: who wrote the command line knew the profile. Its ``deny`` rules still win, and
    its variables. ``NsharnessError`` names the option that is wrong.
    """
    made: list[dict[str, Any]] = []
    for number, text in enumerate(inject, 1):
        made.append(_checked(f"--inject {_shown(text)!a}", {"name": f"inject-{number}", **_inject(text)}))
    for number, text in enumerate(allow, 1):
        made.append(_checked(f"--allow {text!a}", {"name": f"allow-{number}", **_host(text)}))
    written = {name: getattr(profile, name) for name in profile.model_fields_set - {"workspace"}}
    # A profile that was made of the same preset has the rule already.
    made += [
        dict(rule)
        for addition in additions
        for rule in addition.rules
        if SandboxProxyRule.model_validate(rule) not in profile.sandbox_proxy_rules
    ]
    rules = [*made, *profile.sandbox_proxy_rules]
    if profile.only is not None:
        # Who wrote the command line meant them in spite of whoever took away from the profile.
        written["only"] = (*profile.only, *({"hosts": rule["hosts"]} for rule in made))
    if additions:
        written["env"] = variables(additions, profile.env)
    try:
        return Profile.model_validate(
            {"name": profile.name, **written, **replaced, "sandbox_proxy_rules": rules}
        )
    except ValidationError as error:
        raise explain(error, "and the command line") from None


def variables(additions: Iterable[Addition], own: Mapping[str, str]) -> dict[str, str]:
    """The variables of all, those of the profile's ``own`` before all others, with git's settings numbered
    as git wants them (git-config(1), GIT_CONFIG_COUNT). ``NsharnessError`` where two presets disagree."""
    made: dict[str, str] = {}
    by: dict[str, str] = {}
    settings: dict[str, str] = {}
    for addition in additions:
        for name, value in addition.env.items():
            if name not in own and made.setdefault(name, value) != value:
                raise NsharnessError(
                    f"presets {by[name]} and {addition.name}",
                    why=f"each has a value of its own for {name}",
                    hint=f"use one of them, or set {name} in the profile's env",
                )
            by.setdefault(name, addition.name)
        settings |= addition.git
    made |= own
    count = made.get("GIT_CONFIG_COUNT", "0")
    first = int(count) if count.isdigit() else 0
    taken = {made.get(f"GIT_CONFIG_KEY_{number}") for number in range(first)}
    missing = [(key, value) for key, value in settings.items() if key not in taken]
    for number, (key, value) in enumerate(missing, first):
        made |= {f"GIT_CONFIG_KEY_{number}": key, f"GIT_CONFIG_VALUE_{number}": value}
    return made | ({"GIT_CONFIG_COUNT": str(first + len(missing))} if missing else {})


def _checked(what: str, rule: dict[str, Any]) -> dict[str, Any]:
    """The rule alone makes a profile, or the option that it comes from is wrong."""
    try:
        Profile.model_validate({"name": "option", "sandbox_proxy_rules": [rule]})
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False)[0]
        why = str(problem["msg"]).removeprefix("Value error, ")
        raise NsharnessError(what, why=why, hint="nsharness exec --help shows the form") from None
    return rule


def _inject(text: str) -> dict[str, Any]:
    match = _INJECT.fullmatch(text)
    if match is None:
        raise NsharnessError(f"--inject {_shown(text)!a}", why="it has another form", hint=f"give {_FORM!r}")
    if "{{" not in match["value"]:
        raise NsharnessError(
            f"--inject {_shown(text)!a}",
            why="its value is no template, and everybody on this machine can read a command line",
            hint="store the value with nsharness secret set, and name it as {{ secret-name.key }}",
        )
    return {**_host(match["host"]), "headers": {match["header"]: match["value"]}}


def _host(text: str) -> dict[str, Any]:
    host, colon, port = text.rpartition(":")
    if colon and port.isascii() and port.isdigit() and len(port) < 6 and not host.endswith(":"):
        return {"hosts": [host.strip("[]")], "ports": [int(port)]}
    return {"hosts": [text.strip("[]")]}


def _shown(text: str) -> str:
    """An option as an error may repeat it: without a value, which may be a secret in the wrong place."""
    before, equals, _ = text.partition("=")
    return f"{before}= …" if equals else "…"
