"""A request to a host with a credential that goes without it has a named reason."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

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


CONDITIONS = st.fixed_dictionaries(
    {},
    optional={
        "methods": st.sampled_from([frozenset({"GET"}), frozenset({"POST"})]),
        "paths": st.sampled_from([(PathGlob.parse("/a"),), (PathGlob.parse("/**"),)]),
        "ports": st.sampled_from([frozenset({443}), frozenset({8443})]),
        "header_names": st.just(("Authorization",)),
    },
)


@given(
    st.lists(CONDITIONS, min_size=1, max_size=4),
    st.sampled_from(["GET", "POST"]),
    st.sampled_from([443, 8443]),
)
def test_every_request_without_the_credential_has_a_reason(
    rules: list[dict[str, Any]], method: str, port: int
) -> None:
    policy = Policy("p", tuple(rule(f"r{number}", **each) for number, each in enumerate(rules)))
    request = RequestView(method, "https", HOST, port, "/a")
    decision = decide(policy, request)
    if isinstance(decision, Allow):
        found = uninjected(policy, request, decision)
        assert (found is not None) == (policy.credentialed(HOST) and not decision.inject)
        assert (
            found is None
            or "Authorization" in next(r for r in policy.rules if r.name == found.rule).header_names
        )


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
