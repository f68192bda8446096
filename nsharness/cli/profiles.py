"""Which profile a command is about: a file, or one that comes with nsharness, by its name."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from nsharness.linux.identity import Identity
from nsharness.policy.extending import located, origin_of_rule
from nsharness.policy.profile import Profile

DEFAULT: Final = "nsharness.toml"
"""The file in the current folder that is taken when none is named."""

# A run of the demo maps these to services of its own, on ports that are not known before.
_DEMO_UPSTREAMS: Final = {"wiki.local:80": "127.0.0.1:80", "webhook.local:80": "127.0.0.1:80"}


@dataclass(frozen=True, slots=True)
class Chosen:
    """A profile and where it is from. ``at_run`` are the upstreams that only a run knows the ports of."""

    profile: Profile
    source: str
    at_run: frozenset[str] = frozenset()
    origins: Mapping[str, str] = field(default_factory=dict)
    """For each rule by name the file that it is from, where that is another."""


def choose(name: str | None) -> Chosen:
    """The profile ``stage4``, any other name as a file, or the default file. ``NsharnessError`` if it is not
    there or wrong."""
    if name == "stage4":
        from nsharness.stages import stage4

        profile = stage4.load().with_upstreams(_DEMO_UPSTREAMS)
        return Chosen(profile, "stage4", frozenset(_DEMO_UPSTREAMS))
    from nsharness.linux.identity import current
    from nsharness.policy.load import load

    path = Path(DEFAULT) if name is None else named(name, current())
    loaded = load(path, current().home)
    from_others = {
        rule.name: str(source.path)
        for rule in loaded.profile.sandbox_proxy_rules
        if (source := origin_of_rule(loaded.sources, rule.name)) is not None and source.path != path
    }
    return Chosen(loaded.profile, str(path), origins=from_others)


def named(text: str, identity: Identity) -> Path:
    """The file that ``--profile`` means: one that is there, or a profile of the person's own by its name."""
    if os.path.lexists(text):
        return Path(text)
    return located(text, Path(), identity.home, os.environ)
