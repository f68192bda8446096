"""Why a request to a host that has a credential goes there without one. Pure.

``decide`` takes the first rule that matches, and that may be one without: here is said what kept the request
from the rule that has it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, get_args

from nsharness.policy.conditions import Miss, match
from nsharness.policy.decide import Allow, allowances
from nsharness.policy.model import Policy
from nsharness.policy.request import RequestView

Reason = Literal[
    "credential-port",
    "credential-path",
    "credential-method",
    "credential-earlier-rule",
    "credential-no-placeholder",
    "credential-not-requested",
]
REASONS: Final[tuple[Reason, ...]] = get_args(Reason)


@dataclass(frozen=True, slots=True)
class Uninjected:
    """``rule`` is the name of the rule that has the credential, ``hint`` a sentence for a person."""

    reason: Reason
    rule: str
    hint: str


def uninjected(policy: Policy, request: RequestView, allow: Allow) -> Uninjected | None:
    """Why an allowed request carries no credential; None where the host has none, or where the allowing rule
    has one: whether that is in the request is known only when its placeholders were looked for."""
    if not allow.credentialed or allow.rule.credentialed:
        return None
    closest: tuple[int, Uninjected] | None = None
    for rule in allowances(policy):
        if not rule.credentialed or rule.pattern_for(request.host) is None:
            continue
        found = match(policy, rule, request)
        if not isinstance(found, Miss):
            hint = f"rule {allow.rule.name} comes before rule {rule.name}, which has the credential"
            return Uninjected("credential-earlier-rule", rule.name, f"{hint}: put that one first")
        reasons: dict[str, Reason] = {
            "port": "credential-port",
            "path": "credential-path",
            "method": "credential-method",
        }
        if closest is None or found.rank > closest[0]:
            hint = f"rule {rule.name} has the credential: {found.hint}"
            closest = found.rank, Uninjected(reasons[found.condition], rule.name, hint)
    return None if closest is None else closest[1]


def without_placeholder(allow: Allow) -> Uninjected | None:
    """The same for a request by a rule that turns placeholders into secrets, none of which was in it."""
    rule = allow.rule
    if rule.header_names or rule.client_certificate or not rule.secrets:
        return None
    places = " or ".join(sorted(rule.placeholders))
    hint = f"no placeholder of {', '.join(rule.secrets)} is in the request ({places})"
    return Uninjected("credential-no-placeholder", rule.name, hint)
