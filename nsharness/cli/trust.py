"""``nsharness trust``: a profile that a workload could have written is right, as it is now."""

from __future__ import annotations

import argparse
from pathlib import Path

from nsharness.errors import NsharnessError
from nsharness.linux.identity import current
from nsharness.policy.load import load
from nsharness.supervisor.trust import TrustStore, find_profile


def trust(options: argparse.Namespace) -> int:
    """Remember the profile's text. ``NsharnessError`` for one that is wrong: it could not be used anyway."""
    identity = current()
    path = find_profile(Path.cwd(), identity) if options.profile is None else Path(options.profile)
    if path is None:
        raise NsharnessError("no nsharness.toml here", hint="name the profile: nsharness trust FILE")
    TrustStore(identity).trust(path, load(path, identity.home).digest)
    print(f"{path} is trusted as it is now; once it changes, it has to be trusted again")
    return 0
