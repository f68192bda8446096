"""``nsharness plan``: what a sandbox of this profile would be. Starts nothing, needs no privilege."""

from __future__ import annotations

import argparse
from typing import Final

from nsharness.cli.profiles import choose
from nsharness.linux.identity import current
from nsharness.plan import access
from nsharness.policy.certifying import certifies
from nsharness.supervisor.limits import plan_limits
from nsharness.supervisor.planning import plan_for
from nsharness.supervisor.state import state_home

# What only a run has: its certificate, its id, its placeholders.
_CA: Final = "(the certificate authority of the run)\n"


def plan(options: argparse.Namespace) -> int:
    """Print the plan, one step a line or as the JSON that PID 1 reads."""
    profile = choose(options.profile, options.preset).profile
    identity = current()
    sandbox = f"{profile.name}-000000000000"
    made = plan_for(
        profile,
        identity,
        sandbox=sandbox,
        ca_pem=_CA if certifies(profile.policy_json({})) else "",
        limits=plan_limits(profile.limit_values()),
        environment=profile.environment(lambda ref: f"(placeholder of {ref})"),
        overlay=str(state_home(identity) / "runs" / sandbox / "overlay"),
    )
    if options.json:
        print(made.to_json())
    else:
        print("\n".join([made.describe(), *access.describe(access.grants(made.steps))]))
    return 0
