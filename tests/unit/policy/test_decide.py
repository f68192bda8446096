"""Default deny, first match wins, and a denial that says how close it was."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsharness.policy.decide import Allow, Deny, decide, decide_host
from nsharness.policy.hosts import HostPattern
from nsharness.policy.model import Policy, PolicyError, Rule
from nsharness.policy.paths import PathGlob
from nsharness.policy.request import RequestView

WIKI = Rule(
    "wiki",
    (HostPattern.parse("wiki.local"),),
    ("Authorization",),
    frozenset({"GET"}),
    (PathGlob.parse("/snippets/*"),),
)
POLICY = Policy("p", (WIKI,), {"wiki.local:80": ("127.0.0.1", 4242)})


def _request(
    method: str = "GET",
    scheme: Literal["http", "https"] = "http",
    host: str = "wiki.local",
    port: int = 80,
    path: str = "/snippets/durability",
) -> RequestView:
    return RequestView(method, scheme, host, port, path)


def _reason(decision: Allow | Deny) -> str:
    return decision.reason if isinstance(decision, Deny) else "allowed"


def test_a_request_that_a_rule_names_is_allowed_with_its_headers() -> None:
    decision = decide(POLICY, _request())
    assert decision == Allow(WIKI, HostPattern.parse("wiki.local"), ("Authorization",))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"host": "evil-wiki.local"}, "host-not-allowed"),
        ({"host": "wiki.local.attacker.example"}, "host-not-allowed"),
        ({"host": "sub.wiki.local"}, "host-not-allowed"),
        ({"host": "127.0.0.1"}, "host-not-allowed"),
        ({"port": 8080}, "port-not-allowed"),
        ({"port": 443}, "port-not-allowed"),
        ({"path": "/snippets/"}, "path-not-allowed"),
        ({"path": "/snippets/a/b"}, "path-not-allowed"),
        ({"method": "POST"}, "method-not-allowed"),
        ({"method": "get"}, "method-not-allowed"),
        ({"scheme": "https", "port": 443}, "allowed"),
        ({"scheme": "https", "port": 80}, "allowed"),  # mapped: the upstream decides what it speaks
    ],
)
def test_each_condition_counts(change: dict[str, Any], reason: str) -> None:
    """K4, K7."""
    decision = decide(POLICY, dataclasses.replace(_request(), **change))
    assert _reason(decision) == reason
    if isinstance(decision, Deny):
        assert decision.rule == (None if reason == "host-not-allowed" else "wiki")
        assert decision.hint


def test_a_credential_does_not_go_over_plain_http_to_the_network() -> None:
    """K9: to a mapped local upstream only."""
    for upstreams in ({}, {"wiki.local:80": ("93.184.216.34", 80)}):
        policy = Policy("p", (WIKI,), upstreams)
        assert _reason(decide(policy, _request())) == "plain-http"
        assert isinstance(decide(policy, _request(scheme="https", port=443)), Allow)
    local = Policy("p", (WIKI,), {"wiki.local:80": ("10.1.2.3", 80)})
    assert isinstance(decide(local, _request()), Allow)
    without = Policy("p", (dataclasses.replace(WIKI, header_names=()),))
    assert isinstance(decide(without, _request()), Allow)


def test_trace_is_never_sent_with_a_credential() -> None:
    rule = dataclasses.replace(WIKI, methods=None)
    policy = Policy("p", (rule,), POLICY.upstreams)
    assert _reason(decide(policy, _request(method="TRACE"))) == "method-not-allowed"
    assert isinstance(decide(policy, _request(method="DELETE")), Allow)


def test_the_first_rule_that_matches_wins() -> None:
    first = Rule("first", (HostPattern.parse("wiki.local"),), paths=(PathGlob.parse("/open/*"),))
    second = Rule("second", (HostPattern.parse("*.local.example"), HostPattern.parse("wiki.local")))
    policy = Policy("p", (first, second))
    for path, name in (("/open/a", "first"), ("/other", "second")):
        decision = decide(policy, _request(path=path))
        assert isinstance(decision, Allow)
        assert decision.rule.name == name
        assert decision.inject == ()


def test_a_denial_names_the_rule_that_came_closest() -> None:
    port = Rule("port", (HostPattern.parse("a.example"),), ports=frozenset({8443}))
    path = Rule("path", (HostPattern.parse("a.example"),), paths=(PathGlob.parse("/x"),))
    method = Rule(
        "method",
        (HostPattern.parse("a.example"),),
        methods=frozenset({"PUT"}),
        paths=(PathGlob.parse("/y"),),
    )
    policy = Policy("p", (port, method, path))
    for text, closest in (("/y", "method"), ("/z", "method")):
        decision = decide(policy, _request(host="a.example", path=text))
        assert isinstance(decision, Deny)
        assert decision.rule == closest


def test_ports_of_a_rule_replace_the_defaults() -> None:
    rule = Rule("r", (HostPattern.parse("a.example"),), ports=frozenset({8443}))
    policy = Policy("p", (rule,), {"a.example:80": ("127.0.0.1", 1)})
    assert isinstance(decide(policy, _request(scheme="https", host="a.example", port=8443)), Allow)
    for request in (_request(host="a.example"), _request(scheme="https", host="a.example", port=443)):
        assert _reason(decide(policy, request)) == "port-not-allowed"


def test_decisions_on_a_host_alone() -> None:
    """For DNS, CONNECT and SNI: whether any request to it could pass."""
    policy = Policy("p", (WIKI, Rule("odd", (HostPattern.parse("odd.example"),), ports=frozenset({8443}))))
    for host, port, allowed in (
        ("wiki.local", None, True),
        ("wiki.local", 80, True),
        ("wiki.local", 443, True),
        ("wiki.local", 22, False),
        ("odd.example", None, True),
        ("odd.example", 443, False),
        ("odd.example", 8443, True),
        ("attacker.example", None, False),
        ("wiki.local.attacker.example", 443, False),
    ):
        decision = decide_host(policy, host, port)
        assert isinstance(decision, Allow) == allowed, (host, port)
        if isinstance(decision, Allow):
            assert decision.inject == ()


def test_a_rule_with_any_condition_beyond_host_and_port_needs_inspection() -> None:
    plain = Rule("r", (HostPattern.parse("a.example"),), ports=frozenset({443}))
    assert not plain.conditional
    changes: tuple[dict[str, Any], ...] = (
        {"header_names": ("X",)},
        {"methods": frozenset({"GET"})},
        {"paths": (PathGlob.parse("/**"),)},
    )
    for change in changes:
        assert dataclasses.replace(plain, **change).conditional


def test_allow_any_and_headers_exclude_each_other() -> None:
    with pytest.raises(PolicyError):
        Rule("r", (HostPattern.parse("*", allow_any=True),), ("X",), allow_any=True)


@pytest.mark.parametrize("what", ["hosts", "methods", "paths", "ports"])
def test_an_empty_condition_is_no_condition_at_all(what: str) -> None:
    """K3: an empty list has been read as "any"."""
    empty: dict[str, Any] = {what: frozenset() if what in ("methods", "ports") else ()}
    with pytest.raises(PolicyError):
        dataclasses.replace(WIKI, **empty)


hosts = st.sampled_from(["a.example", "b.a.example", "c.b.a.example", "other.test", "192.0.2.7"])
patterns = st.sampled_from(["a.example", "*.a.example", "other.test", "192.0.2.7"]).map(HostPattern.parse)
methods = st.sampled_from(["GET", "PUT", "POST"])
paths = st.sampled_from(["/", "/a", "/a/b", "/c"])
globs = st.sampled_from(["/", "/*", "/a/**", "/**"]).map(PathGlob.parse)
ports = st.sampled_from([80, 443, 8443])
rules = st.builds(
    Rule,
    name=st.sampled_from("rstu"),
    hosts=st.lists(patterns, min_size=1, max_size=2).map(tuple),
    header_names=st.sampled_from([(), ("Authorization",)]),
    methods=st.none() | st.frozensets(methods, min_size=1),
    paths=st.none() | st.lists(globs, min_size=1, max_size=2).map(tuple),
    ports=st.none() | st.frozensets(ports, min_size=1),
)
upstreams = st.dictionaries(
    st.sampled_from(["a.example:80", "a.example:8443", "other.test:80"]),
    st.sampled_from([("127.0.0.1", 1), ("93.184.216.34", 80)]),
)
policies = st.builds(
    Policy, profile=st.just("p"), rules=st.lists(rules, max_size=4).map(tuple), upstreams=upstreams
)
requests = st.builds(
    RequestView, method=methods, scheme=st.sampled_from(["http", "https"]), host=hosts, port=ports, path=paths
)


@given(requests)
def test_no_rules_means_nothing(request: RequestView) -> None:
    """K3."""
    assert _reason(decide(Policy("empty"), request)) == "host-not-allowed"


@given(policies, requests)
def test_a_decision_is_that_of_the_first_rule_whose_conditions_all_hold(
    policy: Policy, request: RequestView
) -> None:
    default = {"http": 80, "https": 443}[request.scheme]
    mapped = policy.upstreams.get(f"{request.host}:{request.port}")

    def holds(rule: Rule) -> bool:
        return (
            any(pattern.matches(request.host) for pattern in rule.hosts)
            and (rule.methods is None or request.method in rule.methods)
            and (rule.paths is None or any(glob.matches(request.path) for glob in rule.paths))
            and (request.port in rule.ports if rule.ports else request.port == default or mapped is not None)
        )

    first = next(filter(holds, policy.rules), None)
    decision = decide(policy, request)
    if first is None:
        assert isinstance(decision, Deny)
    elif first.header_names and request.scheme == "http" and (mapped is None or mapped[0] != "127.0.0.1"):
        assert _reason(decision) == "plain-http"
    else:
        assert isinstance(decision, Allow)
        assert decision.rule == first
        assert decision.pattern.matches(request.host)
        assert decision.inject == first.header_names


@given(policies, requests)
def test_what_may_pass_as_a_request_may_pass_as_a_host(policy: Policy, request: RequestView) -> None:
    """K8: the earlier, coarser decision never refuses what the later one would allow; and when its rule
    needs no inspection, the later one could only have agreed."""
    early, late = decide_host(policy, request.host, request.port), decide(policy, request)
    if isinstance(late, Allow):
        assert isinstance(early, Allow)
        assert isinstance(decide_host(policy, request.host), Allow)
    if isinstance(early, Allow) and not early.rule.conditional and isinstance(late, Allow):
        assert late.inject == () or late.rule != early.rule
