"""May this request pass, by which rule, and with which headers injected: one pure function.

Default deny; the first rule that matches wins. A denial says how close the request came, so that
the answer to it can teach: the same value is printed by the command line, answered by the proxy
and written to the audit log.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from nsharness.policy.hosts import HostPattern
from nsharness.policy.model import Policy, Rule, is_local
from nsharness.policy.request import DEFAULT_PORTS, RequestView

DenyReason = Literal[
    "host-not-allowed", "port-not-allowed", "path-not-allowed", "method-not-allowed", "plain-http"
]


@dataclass(frozen=True, slots=True)
class Allow:
    """The request may pass by ``rule``, whose ``pattern`` matched its host.

    ``inject`` are the names of the headers to inject; their values stand in the credential map
    under ``str(pattern)`` and the name. Empty for a decision about a host alone.
    """

    rule: Rule
    pattern: HostPattern
    inject: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Deny:
    """The request may not pass. ``rule`` is the name of the rule that came closest, None where no
    rule names the host; ``hint`` says what a person could add to the profile."""

    reason: DenyReason
    rule: str | None
    hint: str


def decide(policy: Policy, request: RequestView) -> Allow | Deny:
    """The decision on one request. Host and path of the view are canonical, which its type ensures."""
    closest: tuple[int, Deny] | None = None
    for rule in policy.rules:
        pattern = rule.pattern_for(request.host)
        if pattern is None:
            continue
        missed = _missed(policy, rule, request)
        if missed is None:
            return _with_headers(policy, rule, pattern, request)
        # The rule that failed latest in the order host, port, path, method is the one that was meant.
        if closest is None or missed[0] > closest[0]:
            closest = missed
    return closest[1] if closest else _unknown_host(request.host)


def decide_host(policy: Policy, host: str, port: int | None = None) -> Allow | Deny:
    """The decision on a canonical host before there is a request: for DNS (no port), CONNECT and SNI.

    Allow means that some request to it may pass, and carries no headers. If the rule it carries is
    not ``conditional``, every request to that host and port passes by that very rule.
    """
    denied: Deny | None = None
    for rule in policy.rules:
        pattern = rule.pattern_for(host)
        if pattern is None:
            continue
        if port is None or any(_port_allowed(policy, rule, host, port, p) for p in DEFAULT_PORTS.values()):
            return Allow(rule, pattern)
        denied = denied or _wrong_port(rule, port)
    return denied or _unknown_host(host)


def _missed(policy: Policy, rule: Rule, request: RequestView) -> tuple[int, Deny] | None:
    """Which condition beyond the host the request fails, with its rank; None if it fails none."""
    if not _port_allowed(policy, rule, request.host, request.port, DEFAULT_PORTS[request.scheme]):
        return 0, _wrong_port(rule, request.port)
    if rule.paths is not None and not any(glob.matches(request.path) for glob in rule.paths):
        allowed = ", ".join(str(glob) for glob in rule.paths)
        return 1, Deny("path-not-allowed", rule.name, f"rule {rule.name} allows the paths {allowed}")
    if rule.header_names and request.method == "TRACE":
        # Its answer is the request (RFC 9110 section 9.3.8), the injected header with it.
        return 2, Deny("method-not-allowed", rule.name, "TRACE is never sent with a credential")
    if rule.methods is not None and request.method not in rule.methods:
        allowed = ", ".join(sorted(rule.methods))
        return 2, Deny("method-not-allowed", rule.name, f"rule {rule.name} allows the methods {allowed}")
    return None


def _with_headers(policy: Policy, rule: Rule, pattern: HostPattern, request: RequestView) -> Allow | Deny:
    """A credential goes over TLS, or to an upstream that the profile maps to a local address."""
    if rule.header_names and request.scheme == "http":
        upstream = policy.upstream(request.host, request.port)
        if upstream is None or not is_local(upstream[0]):
            hint = f"rule {rule.name} injects a credential: use https, or map {request.host} in upstreams"
            return Deny("plain-http", rule.name, hint)
    return Allow(rule, pattern, rule.header_names)


def _port_allowed(policy: Policy, rule: Rule, host: str, port: int, default: int) -> bool:
    if rule.ports is not None:
        return port in rule.ports
    return port == default or policy.upstream(host, port) is not None


def _wrong_port(rule: Rule, port: int) -> Deny:
    return Deny("port-not-allowed", rule.name, f"add ports = [{port}] to rule {rule.name}")


def _unknown_host(host: str) -> Deny:
    return Deny("host-not-allowed", None, f"add a rule with hosts = [{host!r}] to the profile")
