"""From a preset, and what this machine's tools are configured for, to rules and variables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from nsharness.errors import NsharnessError
from nsharness.policy.commandline import Addition
from nsharness.presets.catalogue import Preset, load
from nsharness.presets.settings import FINDERS, WHERE, Found, Machine, Registry


def fill(names: Sequence[str], machine: Machine) -> list[Addition]:
    """What the presets of these names add to a profile; each once. ``NsharnessError`` for a name that is
    none, and where the tools of this machine are configured for no registry."""
    presets = [load(name) for name in dict.fromkeys(names)]
    return [
        filled(preset, FINDERS[preset.settings](machine) if preset.settings else Found())
        for preset in presets
    ]


def filled(preset: Preset, found: Found) -> Addition:
    """What a preset adds where ``found`` is configured."""
    rules = [dict(rule) for rule in preset.rules]
    if preset.settings:
        if not found.registries:
            raise NsharnessError(
                f"preset {preset.name}",
                why="this machine's own tools are configured for no host that it could allow",
                hint=f"configure {WHERE[preset.settings]}; or name the host with --allow",
            )
        rules += _registry_rules(preset, found.registries)
    used = _names_of_secrets(rules)
    secrets = {name: about for name, about in preset.secrets.items() if name in used}
    return Addition(preset.name, tuple(rules), {**found.env, **preset.env}, dict(preset.git), secrets)


def _registry_rules(preset: Preset, registries: Iterable[Registry]) -> list[dict[str, Any]]:
    """A rule for each host and port, with the paths of all that is there."""
    together: dict[tuple[str, int | None], list[Registry]] = {}
    for each in registries:
        together.setdefault((each.host, each.port), []).append(each)
    rules = []
    for number, ((host, port), here) in enumerate(together.items(), 1):
        paths = list(dict.fromkeys(f"{each.path}/**" for each in here))
        rule: dict[str, Any] = {"name": f"{preset.name}-{number}", "hosts": [host], "paths": paths}
        rule |= preset.registry
        if port is not None:
            rule["ports"] = [port]
        if preset.credential and any(each.credential for each in here):
            if any(each.scheme != "https" for each in here):
                raise NsharnessError(
                    f"preset {preset.name}",
                    why=f"{host} gets a credential, and would get it without TLS",
                    hint="configure an https address",
                )
            rule["headers"] = dict(preset.credential)
        rules.append(rule)
    return rules


def _names_of_secrets(rules: Iterable[dict[str, Any]]) -> set[str]:
    found: set[str] = set()
    for rule in rules:
        found |= set(rule.get("secrets", ()))
        for text in rule.get("headers", {}).values():
            found |= {part.partition("}}")[0].strip() for part in text.split("{{")[1:]}
    return found
