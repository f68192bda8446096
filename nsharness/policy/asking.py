"""Hosts that no rule names, where a person is asked about them: which are asked about, and what a yes means.

An answer is never more than one more rule: the hosts that were said yes to, without a credential. So whatever
decides, decides as if it had stood in the profile, and rules that deny still win.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable
from typing import Final, Literal

from nsharness.policy.decide import Allow, Deny, decide, decide_host
from nsharness.policy.hosts import HostPattern, is_ip, split_authority
from nsharness.policy.model import Policy, Rule
from nsharness.policy.request import RequestView

Answer = Literal["once", "always", "never"]
"""``once``: yes, for this run. ``always``: also for later ones. ``never``: no, for this run."""

RULE: Final = "asked"
"""The name of the rule that has the hosts that were said yes to."""

MAX_QUESTIONS: Final = 100
"""Questions in one run: whoever is asked more does not read them any more."""

# Names that are nobody's on the public internet: RFC 6761, 6762, 7686, 8375, 9476, and ICANN's .internal.
_SPECIAL: Final = frozenset({"localhost", "local", "internal", "invalid", "test", "onion", "alt", "arpa"})
_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_CANONICAL: Final = re.compile(r"[a-z0-9_.-]{1,253}")
_SHOWN: Final = 64


def granted(policy: Policy, hosts: Iterable[str]) -> Policy:
    """The policy with one more rule, for those of the canonical ``hosts`` that it does not name itself. What
    goes there is looked into, and has no credential."""
    named = [host for host in hosts if is_unknown(policy, host)]
    if not named:
        return policy
    rule = Rule(RULE, tuple(HostPattern.parse(host) for host in named), inspect=True)
    return dataclasses.replace(policy, rules=(*policy.rules, rule))


def is_unknown(policy: Policy, host: str) -> bool:
    """Whether no rule names a canonical host, neither to allow nor to deny it whole."""
    decision = decide_host(policy, host)
    return isinstance(decision, Deny) and decision.reason == "host-not-allowed"


def askable(policy: Policy, request: RequestView) -> bool:
    """Whether to ask about a request: it is denied because no rule names its host, and a yes would do."""
    return (
        _may_be_asked(policy, request.host)
        and isinstance(decision := decide(policy, request), Deny)
        and decision.reason == "host-not-allowed"
        and isinstance(decide(granted(policy, [request.host]), request), Allow)
    )


def askable_host(policy: Policy, host: str, port: int | None = None) -> bool:
    """Whether some request to a canonical host would be asked about."""
    return (
        _may_be_asked(policy, host)
        and is_unknown(policy, host)
        and isinstance(decide_host(granted(policy, [host]), host, port), Allow)
    )


def shown_host(host: str) -> str:
    """A canonical host as a person is shown it: who wrote it wants a yes. A-labels stay A-labels, and of a
    long name the end is shown, which says whose it is. ``ValueError`` for what is not canonical."""
    if not _CANONICAL.fullmatch(host):
        raise ValueError("no name that could be shown")
    if len(host) <= _SHOWN:
        return host
    return f"… {host[-_SHOWN:]} (the end of {len(host)} characters)"


def shown_method(method: str) -> str:
    """The same for a method."""
    return method if method in _METHODS else "an unusual method"


def _may_be_asked(policy: Policy, host: str) -> bool:
    """Never an address, and no name that could only lead to this machine or its network. What the profile
    maps somewhere was meant by whoever wrote that."""
    if policy.unknown != "ask" or is_ip(host):
        return False
    if any(split_authority(name)[0] == host for name in policy.upstreams):
        return True
    return "." in host and host.rpartition(".")[2] not in _SPECIAL
