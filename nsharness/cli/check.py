"""``nsharness check``: is this profile right, and what does it come to."""

from __future__ import annotations

import argparse
import json
from typing import Any

from nsharness.cli.profiles import Chosen, choose
from nsharness.errors import NsharnessError
from nsharness.policy.load import upstream_authorities
from nsharness.policy.model import Policy, Rule
from nsharness.policy.profile import Profile
from nsharness.policy.request import DEFAULT_PORTS
from nsharness.policy.route import Tunnel, route
from nsharness.policy.units import size_text
from nsharness.supervisor.limits import plan_limits


def check(options: argparse.Namespace) -> int:
    """Show the profile as it will be applied. ``NsharnessError``, in one line, for one that is wrong."""
    chosen = choose(options.profile, options.preset)
    policy = chosen.profile.to_policy()
    upstream_authorities(chosen.profile)
    if options.json:
        print(json.dumps(_object(chosen, policy)))
    else:
        print("\n".join(_lines(chosen, policy)))
    return 0


def tunnels(policy: Policy, rule: Rule) -> list[str]:
    """The hosts of a rule to which some TLS connection would be passed through without a look into it."""
    return [
        str(pattern)
        for pattern in rule.hosts
        if _is_tunnelled(policy, rule, pattern.base or "example.org", pattern.subdomains)
    ]


def _is_tunnelled(policy: Policy, rule: Rule, base: str, subdomains: bool) -> bool:
    # A name below the pattern that no other pattern is about stands for all of them.
    host = f"any-name.{base}" if subdomains else base
    ports = sorted(rule.ports or DEFAULT_PORTS.values())
    return not rule.deny and any(isinstance(route(policy, host, port), Tunnel) for port in ports)


def _object(chosen: Chosen, policy: Policy) -> dict[str, Any]:
    written = policy.to_json()
    for rule, shown in zip(policy.rules, written["rules"], strict=True):
        shown["tunnels"] = tunnels(policy, rule)
    upstreams = {name: f"{address}:{port}" for name, (address, port) in written["upstreams"].items()}
    for name in chosen.at_run & set(upstreams):
        upstreams[name] = ""
    return {
        "source": chosen.source,
        "from": dict(chosen.origins),
        **written,
        "upstreams": upstreams,
        "upstream_ca": chosen.profile.upstream_ca,
        "environment": sorted(chosen.profile.env),
        "limits": {k: v for k, v in chosen.profile.limit_values().items() if v is not None},
    }


def _lines(chosen: Chosen, policy: Policy) -> list[str]:
    profile = chosen.profile
    lines = [f"profile {profile.name} ({chosen.source}): valid", f"proxy: identifies by {policy.proxy_auth}"]
    if not policy.rules:
        lines.append("no rules: everything is denied")
    for rule in (*filter(lambda r: r.deny, policy.rules), *filter(lambda r: not r.deny, policy.rules)):
        lines += _rule(policy, rule, chosen.origins.get(rule.name, ""))
    for bound in policy.only or ():
        lines.append(f"only {', '.join(map(str, bound.hosts))} is left of that{_conditions(bound)}")
    for name, (address, port) in policy.upstreams.items():
        where = "a service of the run" if name in chosen.at_run else f"{address}:{port}"
        lines.append(f"upstream {name}: {where}")
    if profile.upstream_ca is not None:
        lines.append(f"upstream_ca: {profile.upstream_ca}")
    lines += _limits(profile)
    for variable, text in profile.env.items():
        lines.append(f"env {variable}: {'a placeholder' if '{{' in text else 'set'}")
    if policy.unknown == "ask":
        lines.append(f"unknown hosts: a person is asked, and has {policy.ask_seconds} s")
        lines.append("  the sandbox's certificate authority can certify any host, because any may be allowed")
    if any(rule.secrets for rule in policy.rules):
        stray = "denied" if policy.stray_placeholders == "block" else "left as they are"
        lines.append(f"placeholders elsewhere: {stray}")
    return lines


def _conditions(bound: Rule) -> str:
    parts = [*sorted(bound.methods or ()), *map(str, bound.paths or ()), *map(str, sorted(bound.ports or ()))]
    return f": {', '.join(parts)}" if parts else ""


def _limits(profile: Profile) -> list[str]:
    """What the profile asks for and what enforces it on this machine, or that nothing does."""
    if not profile.limits.model_fields_set:
        return []
    try:
        return [limit.describe() for limit in plan_limits(profile.limit_values()).limits]
    except NsharnessError as error:
        return [f"limits: {error}"]


def _rule(policy: Policy, rule: Rule, origin: str) -> list[str]:
    kind = "denies" if rule.deny else "allows"
    tunnelled = tunnels(policy, rule)
    hosts = [
        f"{host} (tunnel: not looked into)" if host in tunnelled else host for host in map(str, rule.hosts)
    ]
    lines = [f"rule {rule.name} {kind} {', '.join(hosts)}{f' ({origin})' if origin else ''}"]
    facts: list[tuple[str, str]] = [
        ("methods", ", ".join(sorted(rule.methods or ()))),
        ("paths", ", ".join(map(str, rule.paths or ()))),
        ("ports", ", ".join(map(str, sorted(rule.ports or ())))),
        ("injects", ", ".join(rule.header_names)),
        (
            "placeholders",
            f"{', '.join(rule.secrets)} in {', '.join(sorted(rule.placeholders))}" if rule.secrets else "",
        ),
        ("shows", "a client certificate" if rule.client_certificate else ""),
        ("rate", "" if rule.rate is None else str(rule.rate)),
        ("max_requests", "" if rule.max_requests is None else str(rule.max_requests)),
        ("max_body", "" if rule.max_body is None else size_text(rule.max_body)),
        ("exclusive", "" if rule.exclusive else "no: the client's own credentials pass"),
        ("cookies", "the client's pass" if rule.cookies else ""),
        ("inspect", "yes" if rule.inspect else ""),
        ("allow_any", "yes: this is over-broad" if rule.allow_any else ""),
    ]
    return lines + [f"  {name}: {value}" for name, value in facts if value]
