"""A profile with what a command line adds to it: hosts, and headers for hosts. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final

from pydantic import ValidationError

from nsharness.errors import NsharnessError
from nsharness.policy.load import explain
from nsharness.policy.profile import Profile

_INJECT: Final = re.compile(r"\s*(?P<host>\S+):\s+(?P<header>[^\s=]+)\s*=\s*(?P<value>.*\S)\s*", re.ASCII)
_FORM: Final = "HOST: HEADER = VALUE with {{ secret-name.key }}"


def adjusted(
    profile: Profile, *, allow: Sequence[str] = (), inject: Sequence[str] = (), **replaced: object
) -> Profile:
    """The profile with a rule for each ``HOST[:PORT]`` of ``allow`` and each ``HOST: HEADER = VALUE`` of
    ``inject``, and with keys replaced.

    The added rules come first: who wrote the command line knew the profile. Its ``deny`` rules still win.
    ``NsharnessError`` names the option that is wrong.
    """
    made: list[dict[str, Any]] = []
    for number, text in enumerate(inject, 1):
        made.append(_checked(f"--inject {_shown(text)!a}", {"name": f"inject-{number}", **_inject(text)}))
    for number, text in enumerate(allow, 1):
        made.append(_checked(f"--allow {text!a}", {"name": f"allow-{number}", **_host(text)}))
    written = {name: getattr(profile, name) for name in profile.model_fields_set - {"workspace"}}
    rules = [*made, *profile.sandbox_proxy_rules]
    try:
        return Profile.model_validate(
            {"name": profile.name, **written, **replaced, "sandbox_proxy_rules": rules}
        )
    except ValidationError as error:
        raise explain(error, "and the command line") from None


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
