"""A connection is passed through only where nothing else would have been decided on it."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsharness.policy.cdn import is_on_cdn
from nsharness.policy.decide import Allow, Deny, decide, decide_host
from nsharness.policy.hosts import HostPattern
from nsharness.policy.model import Policy, Rule
from nsharness.policy.paths import PathGlob
from nsharness.policy.request import RequestView
from nsharness.policy.route import Intercept, Tunnel, route
from nsharness.policy.units import Rate


def _rule(name: str = "open", host: str = "open.example", **more: Any) -> Rule:
    return Rule(name, (HostPattern.parse(host, allow_any=True),), **more)


def test_a_host_that_is_allowed_without_further_conditions_is_tunnelled() -> None:
    rule = _rule()
    assert route(Policy("p", (rule,)), "open.example", 443) == Tunnel(rule)
    rule = _rule(ports=frozenset({8443}))
    assert route(Policy("p", (rule,)), "open.example", 8443) == Tunnel(rule)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"header_names": ("X",)}, "credential"),
        ({"secrets": ("a.key",), "placeholders": frozenset({"header"})}, "credential"),
        ({"client_certificate": True}, "credential"),
        ({"paths": (PathGlob.parse("/**"),)}, "conditions"),
        ({"methods": frozenset({"GET"})}, "conditions"),
        ({"rate": Rate(1, 1)}, "limits"),
        ({"max_requests": 1}, "limits"),
        ({"max_body": 1}, "limits"),
        ({"inspect": True}, "inspect"),
    ],
    ids=str,
)
@pytest.mark.parametrize("position", [0, 1])
def test_whatever_has_to_be_seen_is_looked_into(change: dict[str, Any], why: str, position: int) -> None:
    """Also where another rule, before or after it, would let everything pass."""
    special = _rule("special", **change)
    rules = [_rule()]
    rules.insert(position, special)
    for policy in (Policy("p", (special,)), Policy("p", tuple(rules))):
        routed = route(policy, "open.example", 443)
        assert isinstance(routed, Intercept)
        assert routed.why == why


def test_a_denial_with_conditions_makes_connections_visible_and_one_without_refuses_them() -> None:
    paths = (PathGlob.parse("/admin/**"),)
    for host in ("open.example", "*"):
        policy = Policy("p", (_rule(), _rule("no", host, deny=True, paths=paths)))
        assert route(policy, "open.example", 443) == Intercept(_rule(), "conditions")
        routed = route(Policy("p", (_rule(), _rule("no", host, deny=True))), "open.example", 443)
        assert isinstance(routed, Deny)
        assert routed.reason == "denied-by-rule"
    elsewhere = _rule("no", deny=True, paths=paths, ports=frozenset({8443}))
    assert isinstance(route(Policy("p", (_rule(), elsewhere)), "open.example", 443), Tunnel)


@pytest.mark.parametrize(
    ("host", "why"),
    [
        ("abc.cloudfront.net", "shared-cdn"),
        ("a.b.fastly.net", "shared-cdn"),
        ("me.github.io", "shared-cdn"),
        ("192.0.2.7", "no-sni"),
        ("2001:db8::7", "no-sni"),
    ],
)
def test_hosts_whose_tunnel_could_lead_anywhere_are_looked_into(host: str, why: str) -> None:
    """K2: fronting."""
    routed = route(Policy("p", (_rule(host=host),)), host, 443)
    assert isinstance(routed, Intercept)
    assert routed.why == why


def test_a_network_is_known_by_whole_labels() -> None:
    assert is_on_cdn("fastly.net")
    assert is_on_cdn("x.y.fastly.net")
    assert not is_on_cdn("notfastly.net")
    assert not is_on_cdn("fastly.net.example")
    assert not is_on_cdn("net")


def test_what_is_not_allowed_is_not_connected_to() -> None:
    policy = Policy("p", (_rule(),))
    for host, port, reason in (
        ("other.example", 443, "host-not-allowed"),
        ("sub.open.example", 443, "host-not-allowed"),
        ("open.example", 22, "port-not-allowed"),
    ):
        routed = route(policy, host, port)
        assert isinstance(routed, Deny)
        assert routed.reason == reason


flags = st.sampled_from(
    [
        {},
        {"header_names": ("X",)},
        {"methods": frozenset({"GET"})},
        {"paths": (PathGlob.parse("/a/**"),)},
        {"ports": frozenset({443, 8443})},
        {"max_requests": 1},
        {"inspect": True},
        {"deny": True},
        {"deny": True, "methods": frozenset({"PUT"})},
        {"deny": True, "ports": frozenset({8443})},
    ]
)
hosts = st.sampled_from(["a.example", "*.example", "b.a.example"])
rules = st.builds(lambda name, host, more: _rule(name, host, **more), st.sampled_from("rst"), hosts, flags)
requests = st.builds(
    RequestView,
    method=st.sampled_from(["GET", "PUT"]),
    scheme=st.just("https"),
    host=st.sampled_from(["a.example", "b.a.example", "example"]),
    port=st.sampled_from([443, 8443]),
    path=st.sampled_from(["/", "/a/b"]),
)


@given(st.lists(rules, max_size=4), st.lists(requests, min_size=1, max_size=6))
def test_in_a_tunnel_every_request_would_have_passed_untouched(
    rules: list[Rule], requests: list[RequestView]
) -> None:
    policy = Policy("p", tuple(rules))
    for request in requests:
        routed = route(policy, request.host, request.port)
        assert isinstance(routed, Deny) == isinstance(decide_host(policy, request.host, request.port), Deny)
        decision = decide(policy, request)
        if isinstance(routed, Tunnel):
            assert isinstance(decision, Allow)
            assert decision.rule == routed.rule
            assert decision.inject == ()
            assert not decision.credentialed
            for other in policy.rules:
                seen = dataclasses.replace(other, ports=None)
                assert seen.pattern_for(request.host) is None or not other.inspect or request.port == 8443
        if isinstance(routed, Deny):
            assert isinstance(decision, Deny)
