"""The conditions of one rule, in the order in which they are looked at: host, port, path, method.

``decide`` and ``explain`` both ask here, so that what is explained is what is decided.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from nsharness.policy.hosts import HostPattern
from nsharness.policy.model import Policy, Rule
from nsharness.policy.request import DEFAULT_PORTS, RequestView

Condition = Literal["host", "port", "path", "method"]

_RANKS: dict[Condition, int] = {"host": 0, "port": 1, "path": 2, "method": 3}


@dataclass(frozen=True, slots=True)
class Miss:
    """The first condition of a rule that a request fails; ``hint`` says what to add to the rule."""

    condition: Condition
    hint: str

    @property
    def rank(self) -> int:
        """How close the request came: more conditions passed, higher rank."""
        return _RANKS[self.condition]


def match(policy: Policy, rule: Rule, request: RequestView) -> HostPattern | Miss:
    """The pattern of the rule that matches the request's host, if all its conditions hold."""
    pattern = rule.pattern_for(request.host)
    if pattern is None:
        return Miss("host", f"add {request.host!a} to the hosts of rule {rule.name}")
    if not port_allowed(policy, rule, request.host, request.port, DEFAULT_PORTS[request.scheme]):
        return Miss("port", port_hint(rule, request.port))
    if rule.paths is not None and not any(glob.matches(request.path) for glob in rule.paths):
        allowed = _list(sorted(map(str, rule.paths)))
        return Miss(
            "path", f"rule {rule.name} allows the paths {allowed}; add {_shown(request.path)} to them"
        )
    if rule.methods is not None and request.method not in rule.methods:
        allowed = _list(sorted(rule.methods))
        hint = f"rule {rule.name} allows the methods {allowed}; add {_shown(request.method)} to them"
        return Miss("method", hint)
    return pattern


def port_allowed(policy: Policy, rule: Rule, host: str, port: int, default: int | None) -> bool:
    """Whether a rule means a port of a host that it names. ``default`` is the port of the scheme; None
    stands for either scheme's."""
    if rule.ports is not None:
        return port in rule.ports
    if rule.deny:
        # Where nothing is said a denial means every port, as an allowance means as few as it can.
        return True
    defaults = DEFAULT_PORTS.values() if default is None else (default,)
    return port in defaults or policy.upstream(host, port) is not None


def port_hint(rule: Rule, port: int) -> str:
    """What to add to a rule that lacks a port."""
    ports = sorted({*(rule.ports or ()), port})
    return f"add ports = {ports} to rule {rule.name}"


def _list(texts: list[str]) -> str:
    return ", ".join(texts[:8]) + (" …" if len(texts) > 8 else "")


def _shown(text: str) -> str:
    return text if len(text) <= 120 else text[:119] + "…"
