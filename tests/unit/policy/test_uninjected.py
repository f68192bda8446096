"""A request to a host with a credential that goes without it has a named reason."""

from __future__ import annotations

from typing import Any

import pytest

from nsharness.policy.decide import Allow, decide
from nsharness.policy.hosts import HostPattern
from nsharness.policy.model import Policy, Rule
from nsharness.policy.paths import PathGlob
from nsharness.policy.request import RequestView
from nsharness.policy.uninjected import REASONS, uninjected, without_placeholder

HOST = "api.example.com"


def rule(name: str, **more: Any) -> Rule:
    return Rule(name, (HostPattern.parse(HOST),), **more)


OPEN = rule("open", ports=frozenset({443, 8443}))
KEY = rule(
    "key",
    header_names=("Authorization",),
    paths=(PathGlob.parse("/v1/**"),),
    methods=frozenset({"GET"}),
    ports=frozenset({443}),
)

CASES = {
    "credential-earlier-rule": (Policy("p", (OPEN, KEY)), "GET", 443, "/v1/a"),
    "credential-port": (Policy("p", (KEY, OPEN)), "GET", 8443, "/v1/a"),
    "credential-path": (Policy("p", (KEY, OPEN)), "GET", 443, "/v2"),
    "credential-method": (Policy("p", (KEY, OPEN)), "POST", 443, "/v1/a"),
}


@pytest.mark.parametrize("reason", CASES)
def test_the_reason_is_what_kept_it_from_the_rule_that_has_the_credential(reason: str) -> None:
    policy, method, port, path = CASES[reason]
    request = RequestView(method, "https", HOST, port, path)
    decision = decide(policy, request)
    assert isinstance(decision, Allow)
    assert decision.inject == ()
    found = uninjected(policy, request, decision)
    assert found is not None
    assert (found.reason, found.rule) == (reason, "key")
    assert "key" in found.hint


def test_where_it_is_injected_or_there_is_none_there_is_no_reason() -> None:
    policy = Policy("p", (KEY, rule("open")))
    decision = decide(policy, RequestView("GET", "https", HOST, 443, "/v1/a"))
    assert isinstance(decision, Allow)
    assert uninjected(policy, RequestView("GET", "https", HOST, 443, "/v1/a"), decision) is None
    plain = Policy("p", (OPEN,))
    decision = decide(plain, RequestView("GET", "https", HOST, 443, "/"))
    assert isinstance(decision, Allow)
    assert uninjected(plain, RequestView("GET", "https", HOST, 443, "/"), decision) is None


def test_a_rule_for_placeholders_says_that_none_came() -> None:
    secret = rule("secret", secrets=("api.key",), placeholders=frozenset({"header"}))
    found = without_placeholder(Allow(secret, secret.hosts[0], (), True))
    assert found is not None
    assert found.reason == "credential-no-placeholder"
    assert without_placeholder(Allow(KEY, KEY.hosts[0], KEY.header_names, True)) is None
    assert {*CASES, "credential-no-placeholder", "credential-not-requested"} == set(REASONS)
