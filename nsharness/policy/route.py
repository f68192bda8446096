"""Whether a connection must be looked into, or may pass as it is.

A tunnel is uninspected: what a client asks for inside it, by another Host header for instance, is nobody's
knowledge. So only connections are tunnelled on which nothing else would have been decided. It takes TLS
whose SNI is the host; what comes without TLS is requests, and those are decided on one by one.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from nsharness.policy.cdn import is_on_cdn
from nsharness.policy.conditions import port_allowed
from nsharness.policy.decide import Deny, decide_host
from nsharness.policy.hosts import is_ip
from nsharness.policy.model import Policy, Rule

Why = Literal["credential", "conditions", "limits", "inspect", "shared-cdn", "no-sni"]


@dataclass(frozen=True, slots=True)
class Intercept:
    """The connection is terminated here and its requests are decided on; ``why`` it has to be.

    ``credential``: a rule gives the host one. ``conditions``: a rule, allowing or denying, has paths or
    methods. ``limits``: requests are counted or measured. ``inspect``: a rule says so. ``shared-cdn``: the
    host's servers speak for others, too. ``no-sni``: an IP address, which no SNI can name.
    """

    rule: Rule
    why: Why


@dataclass(frozen=True, slots=True)
class Tunnel:
    """The connection is passed through if its TLS handshake names the host (SNI), and refused if not."""

    rule: Rule


def route(policy: Policy, host: str, port: int) -> Intercept | Tunnel | Deny:
    """What becomes of a TLS connection to a canonical host and port."""
    decision = decide_host(policy, host, port)
    if isinstance(decision, Deny):
        return decision
    if policy.credentialed(host):
        return Intercept(decision.rule, "credential")
    rules = [
        rule
        for rule in (*policy.rules, *(policy.only or ()))
        if rule.pattern_for(host) is not None and port_allowed(policy, rule, host, port, None)
    ]
    why = _reason(rules, host)
    return Tunnel(decision.rule) if why is None else Intercept(decision.rule, why)


def _reason(rules: Iterable[Rule], host: str) -> Why | None:
    """The first reason to intercept that any of the rules for a host gives, later ones included: which of
    them a request is for cannot be known before it is seen."""
    reasons: set[Why | None] = set()
    for rule in rules:
        reasons.add("conditions" if rule.conditional else None)
        reasons.add("limits" if rule.limited else None)
        reasons.add("inspect" if rule.inspect else None)
    reasons.add("shared-cdn" if is_on_cdn(host) else None)
    reasons.add("no-sni" if is_ip(host) else None)
    order: tuple[Why, ...] = ("conditions", "limits", "inspect", "shared-cdn", "no-sni")
    return next((why for why in order if why in reasons), None)
