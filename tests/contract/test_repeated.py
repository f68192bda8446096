"""Requests on one connection come to what each comes to on a connection of its own, with another policy in
between, and before and after others."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from nsharness.policy.model import Policy
from tests.contract.engine import Served
from tests.contract.roads import ROADS, Conversation, Fields, Road, opened
from tests.contract.world import KEYED, OTHER, PLACEHOLDER, RIGHT, World
from tests.support import waiting

pytestmark = pytest.mark.kernel("userns", "veth")

_OF_THE_MOMENT = ("at", "time", "seconds", "request", "sandbox")


@dataclass(frozen=True)
class Asked:
    """One request, and the name of the policy that is in force then."""

    path: str
    fields: Fields = ()
    method: str = "GET"
    policy: str = "usual"
    named: str | None = None


STRAY: Fields = (("X-Note", PLACEHOLDER),)
KEY: Fields = (("X-Api-Key", PLACEHOLDER),)
OWN: Fields = (("Authorization", "Bearer of-their-own"), ("Accept", "a"))

SEQUENCES: dict[str, tuple[str, tuple[Asked, ...]]] = {
    "the rule goes and comes": (
        RIGHT,
        (
            Asked("/ok/a", OWN),
            Asked("/ok/b", OWN),
            Asked("/ok/c", OWN, policy="closed"),
            Asked("/ok/d", OWN),
            Asked("/ok/e", OWN, policy="open"),
            Asked("/ok/f", OWN, "DELETE"),
            Asked("/other", OWN),
            Asked("/ok/g", OWN),
        ),
    ),
    "placeholders": (
        OTHER,
        (
            Asked("/a", STRAY, policy="leaves"),
            Asked("/b", STRAY),
            Asked("/c", STRAY, policy="leaves"),
            Asked(f"/{PLACEHOLDER}", policy="leaves"),
            Asked(f"/{PLACEHOLDER}"),
        ),
    ),
    "what becomes a secret": (
        KEYED,
        (
            Asked("/a", KEY),
            Asked("/b", KEY, policy="keyless"),
            Asked("/c", KEY),
            Asked("/d", policy="keyless"),
            Asked("/e", KEY),
        ),
    ),
    "names": (
        OTHER,
        (
            Asked("/a"),
            Asked("/b", named=RIGHT),
            Asked("/c", named=OTHER.upper()),
            Asked("/d", named=f"{OTHER}."),
            Asked("/e", named=RIGHT),
            Asked("/f"),
        ),
    ),
    "a limit": (
        OTHER,
        (Asked("/a", policy="few"), Asked("/b", policy="few"), Asked("/c", policy="few"), Asked("/d")),
    ),
}


_runs = itertools.count()


def policies(hosts: World) -> dict[str, Policy]:
    """By their names. What was used of a rule is counted by the rule's name."""
    usual = hosts.policy()

    def with_rule(which: str, **changes: Any) -> Policy:
        rules = tuple(dataclasses.replace(r, **changes) if r.name == which else r for r in usual.rules)
        return dataclasses.replace(usual, rules=rules)

    return {
        "usual": usual,
        "closed": with_rule("right", methods=frozenset({"POST"})),
        "open": with_rule("right", exclusive=False),
        "leaves": dataclasses.replace(usual, stray_placeholders="leave"),
        "keyless": with_rule("keyed", secrets=(), placeholders=frozenset(), inspect=True),
        "few": with_rule("other", name=f"few-{next(_runs)}", max_requests=2),
    }


@dataclass
class Outcome:
    answers: list[Any]
    sent: list[Any]
    audit: list[dict[str, Any]]


def outcome(
    served: Served, hosts: World, road: Road, host: str, asked: Sequence[Asked], *, apart: bool
) -> Outcome:
    """What becomes of the requests, each on a connection of its own or all on one."""
    hosts.forget()
    rules, begun, answers = policies(hosts), len(served.audit()), []

    def lines() -> list[dict[str, Any]]:
        """Without the late ends of requests that were before."""
        found = served.audit()[begun:]
        known = _numbers(found, "allow", "inject")
        return [e for e in found if e["action"] not in ("response", "error") or e["request"] in known]

    def over() -> bool:
        found = lines()
        return _numbers(found, "allow", "inject") == _numbers(found, "response", "error")

    for each in [asked[i : i + 1] for i in range(len(asked))] if apart else [asked]:
        with opened(served, road, host) as client:
            conversation = Conversation(client, road, host)
            for one in each:
                assert served.reload(rules[one.policy])
                answer = conversation.ask(one.path, *one.fields, method=one.method, named=one.named)
                answers.append((answer.status, answer.reason, answer.reason is None and answer.body))
                waiting.eventually(over)
        hosts.hang_up()
    assert served.reload(rules["usual"])
    sent = [(host.port, r.line, r.headers, r.body) for host in hosts.hosts() for r in host.requests]
    return Outcome(answers, sent, [_lasting(line) for line in lines()])


def _numbers(lines: Iterable[dict[str, Any]], *actions: str) -> set[int]:
    return {line["request"] for line in lines if line["action"] in actions}


def _lasting(line: dict[str, Any]) -> dict[str, Any]:
    kept = {key: value for key, value in line.items() if key not in _OF_THE_MOMENT}
    return {**kept, "rule": str(kept.get("rule")).partition("-")[0]}


# The host that gets a secret for its placeholder is without TLS.
CASES = [
    # Half of the roads only when there is time: each kind and each protocol is among the others.
    pytest.param(road, what, id=f"{road.name}-{what}", marks=[pytest.mark.slow] if number % 2 else [])
    for number, road in enumerate(ROADS)
    for what, (host, _) in SEQUENCES.items()
    if not (road.tls and host == KEYED)
]


@pytest.mark.parametrize(("road", "what"), CASES)
def test_rules_0_to_5_hold_for_what_was_said_before(
    served: Served, hosts: World, road: Road, what: str
) -> None:
    host, asked = SEQUENCES[what]
    together = outcome(served, hosts, road, host, asked, apart=False)
    assert together == outcome(served, hosts, road, host, asked, apart=True)
    assert {200, 403} <= {status for status, *_ in together.answers} or what in ("names", "a limit")
