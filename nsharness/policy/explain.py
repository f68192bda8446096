"""A decision, told: every rule in the order in which it is looked at, and what each came to.

The conditions are asked of the same functions that ``decide`` asks, and the outcome is ``decide``'s own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from nsharness.policy.asking import askable
from nsharness.policy.conditions import Condition, Miss, match
from nsharness.policy.decide import Allow, Deny, allowances, decide, denials
from nsharness.policy.model import Policy, Rule
from nsharness.policy.request import RequestView
from nsharness.policy.route import Intercept, Tunnel, route
from nsharness.policy.uninjected import Uninjected, uninjected

Outcome = Literal["matches", "fails", "not reached"]


@dataclass(frozen=True, slots=True)
class Step:
    """One rule: ``failed`` is the first of its conditions that the request fails, if it fails one."""

    rule: Rule
    outcome: Outcome
    failed: Condition | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "rule": self.rule.name,
            "deny": self.rule.deny,
            "outcome": self.outcome,
            "failed": self.failed,
        }


@dataclass(frozen=True, slots=True)
class Explanation:
    """What was decided, and on the way to it: first the rules that deny, then those that allow, each in the
    order of the profile. ``connection`` says whether TLS to that host would be looked into, ``uninjected``
    why an allowed request goes without the credential that its host has, ``asked`` whether a person would be
    asked about one that is denied."""

    steps: tuple[Step, ...]
    decision: Allow | Deny
    connection: Intercept | Tunnel | Deny
    uninjected: Uninjected | None = None
    asked: bool = False

    def to_json(self) -> dict[str, Any]:
        """A JSON object with everything but what the request was."""
        allowed = isinstance(self.decision, Allow)
        return {
            "allowed": allowed,
            "rule": self.decision.rule.name if isinstance(self.decision, Allow) else self.decision.rule,
            "reason": None if isinstance(self.decision, Allow) else self.decision.reason,
            "status": None if isinstance(self.decision, Allow) else self.decision.status,
            "hint": None if isinstance(self.decision, Allow) else self.decision.hint,
            "not_injected": None if self.uninjected is None else self.uninjected.reason,
            "asked": self.asked,
            "inject": list(self.decision.inject) if isinstance(self.decision, Allow) else [],
            "connection": type(self.connection).__name__.lower(),
            "intercepted_for": self.connection.why if isinstance(self.connection, Intercept) else None,
            "rules": [step.to_json() for step in self.steps],
        }


def explain(policy: Policy, request: RequestView) -> Explanation:
    """The decision on a request with the way to it."""
    steps: list[Step] = []
    decided = False
    for rule in (*denials(policy), *allowances(policy)):
        if decided:
            steps.append(Step(rule, "not reached"))
            continue
        found = match(policy, rule, request)
        if isinstance(found, Miss):
            steps.append(Step(rule, "fails", found.condition))
        else:
            steps.append(Step(rule, "matches"))
            decided = True
    decision = decide(policy, request)
    return Explanation(
        tuple(steps),
        decision,
        route(policy, request.host, request.port),
        uninjected(policy, request, decision) if isinstance(decision, Allow) else None,
        askable(policy, request),
    )
