"""Which profile a command is about: a file, or one that comes with nsharness, by its name."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

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


def choose(name: str | None) -> Chosen:
    """The profile ``stage4``, any other name as a file, or the default file. ``NsharnessError`` if it is not
    there or wrong."""
    if name == "stage4":
        from nsharness.stages import stage4

        profile = stage4.load().with_upstreams(_DEMO_UPSTREAMS)
        return Chosen(profile, "stage4", frozenset(_DEMO_UPSTREAMS))
    from nsharness.policy.load import load_profile

    path = DEFAULT if name is None else name
    return Chosen(load_profile(Path(path)), path)
