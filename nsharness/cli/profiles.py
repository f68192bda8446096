"""Which profile a command is about: a file, or one that comes with nsharness, by its name."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from nsharness.frozen import field, frozen, replace
from nsharness.linux.identity import Identity, current
from nsharness.policy.extending import located, origin_of_rule
from nsharness.supervisor.trust import TrustStore

if TYPE_CHECKING:
    from nsharness.policy.commandline import Addition
    from nsharness.policy.profile import Profile

DEFAULT: Final = "nsharness.toml"
"""The file in the current folder that is taken when none is named."""

OWN: Final = "user"
"""The name of the profile that is a person's own for everything."""

# A run of the demo maps these to services of its own, on ports that are not known before.
_DEMO_UPSTREAMS: Final = {"wiki.local:80": "127.0.0.1:80", "webhook.local:80": "127.0.0.1:80"}


@frozen
class Chosen:
    """A profile and where it is from. ``at_run`` are the upstreams that only a run knows the ports of."""

    profile: Profile
    source: str
    at_run: frozenset[str] = frozenset()
    origins: Mapping[str, str] = field(default_factory=dict)
    """For each rule by name the file that it is from, where that is another."""


def choose(name: str | None, presets: Sequence[str] = ()) -> Chosen:
    """The profile ``stage4``, any other as a file or by its name, or the one that would hold here; with what
    presets add. ``NsharnessError`` if it is not there or wrong."""
    from nsharness.policy.commandline import adjusted

    identity = current()
    chosen = _chosen(name, identity, required=not presets)
    if not presets:
        return chosen
    return replace(chosen, profile=adjusted(chosen.profile, additions=additions(presets, identity)))


def _chosen(name: str | None, identity: Identity, *, required: bool) -> Chosen:
    if name == "stage4":
        from nsharness.stages import stage4

        profile = stage4.load().with_upstreams(_DEMO_UPSTREAMS)
        return Chosen(profile, "stage4", frozenset(_DEMO_UPSTREAMS))
    from nsharness.policy.load import load
    from nsharness.policy.narrowing import narrowed
    from nsharness.policy.profile import Profile

    own = own_profile(identity) if name is None else None
    path = named(name, identity) if name is not None else Path(DEFAULT)
    if name is None and not os.path.lexists(path):
        if own is None and not required:
            return Chosen(Profile(name="exec"), "no file")
        path, own = own or path, None
    loaded = load(path, identity.home)
    from_files = {
        rule.name: origin_of_rule(loaded.sources, rule.name) for rule in loaded.profile.sandbox_proxy_rules
    }
    origins = {name: str(file.path) for name, file in from_files.items() if file and file.path != path}
    if own is None or TrustStore(identity).is_trusted(path, loaded.digest):
        return Chosen(loaded.profile, str(path), origins=origins)
    profile = narrowed(load(own, identity.home).profile, loaded.profile, str(path), str(Path.cwd()))
    return Chosen(profile, f"{own}, of which {path} takes away")


def additions(names: Sequence[str], identity: Identity) -> Sequence[Addition]:
    """What presets add to a profile on this machine."""
    if not names:
        return ()
    from nsharness.presets.filling import fill
    from nsharness.presets.settings import Machine

    with identity.files():
        return fill(names, Machine(identity.home, os.environ))


def own_profile(identity: Identity) -> Path | None:
    """The profile that a person has for everything: what a project's own may take away from. None if there is
    none."""
    path = located(OWN, Path(), identity.home, os.environ)
    return path if os.path.lexists(path) else None


def named(text: str, identity: Identity) -> Path:
    """The file that ``--profile`` means: one that is there, or a profile of the person's own by its name."""
    if os.path.lexists(text):
        return Path(text)
    return located(text, Path(), identity.home, os.environ)
