"""Default deny, first match wins, and a denial that says how close it was."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsharness.policy.decide import Allow, Deny, decide, decide_host
from nsharness.policy.explain import explain
from nsharness.policy.hosts import HostPattern
from nsharness.policy.model import Policy, PolicyError, Rule
from nsharness.policy.paths import PathGlob
from nsharness.policy.request import RequestView
from nsharness.policy.units import Rate

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
    assert decision == Allow(WIKI, HostPattern.parse("wiki.local"), ("Authorization",), credentialed=True)


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
) | st.builds(
    Rule,
    name=st.sampled_from("xyz"),
    hosts=st.lists(patterns, min_size=1, max_size=2).map(tuple),
    methods=st.none() | st.frozensets(methods, min_size=1),
    paths=st.none() | st.lists(globs, min_size=1, max_size=2).map(tuple),
    ports=st.none() | st.frozensets(ports, min_size=1),
    deny=st.just(True),
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


def _holds(policy: Policy, rule: Rule, request: RequestView) -> bool:
    """What the conditions of a rule mean, written down once more."""
    default = {"http": 80, "https": 443}[request.scheme]
    mapped = f"{request.host}:{request.port}" in policy.upstreams
    any_port = rule.deny or request.port == default or mapped
    return (
        any(pattern.matches(request.host) for pattern in rule.hosts)
        and (rule.methods is None or request.method in rule.methods)
        and (rule.paths is None or any(glob.matches(request.path) for glob in rule.paths))
        and (request.port in rule.ports if rule.ports else any_port)
    )


@given(policies, requests)
def test_a_denial_wins_and_else_the_first_rule_whose_conditions_all_hold(
    policy: Policy, request: RequestView
) -> None:
    mapped = policy.upstreams.get(f"{request.host}:{request.port}")
    matching = [rule for rule in policy.rules if _holds(policy, rule, request)]
    denying = [rule for rule in matching if rule.deny]
    decision = decide(policy, request)
    if denying:
        assert _reason(decision) == "denied-by-rule"
        assert isinstance(decision, Deny)
        assert decision.rule == denying[0].name
    elif not matching:
        assert isinstance(decision, Deny)
        assert decision.reason != "denied-by-rule"
    elif matching[0].header_names and request.scheme == "http" and mapped != ("127.0.0.1", 1):
        assert _reason(decision) == "plain-http"
    else:
        assert isinstance(decision, Allow)
        assert decision.rule == matching[0]
        assert decision.pattern.matches(request.host)
        assert decision.inject == matching[0].header_names
        assert decision.credentialed == any(
            rule.header_names and any(pattern.matches(request.host) for pattern in rule.hosts)
            for rule in policy.rules
        )


@given(policies, requests)
def test_what_may_pass_as_a_request_may_pass_as_a_host(policy: Policy, request: RequestView) -> None:
    """K8: the earlier, coarser decision never refuses what the later one would allow."""
    early, late = decide_host(policy, request.host, request.port), decide(policy, request)
    if isinstance(late, Allow):
        assert isinstance(early, Allow)
        assert isinstance(decide_host(policy, request.host), Allow)


@given(policies, requests)
def test_an_explanation_is_the_decision_with_its_way(policy: Policy, request: RequestView) -> None:
    told = explain(policy, request)
    assert told.decision == decide(policy, request)
    assert [step.rule for step in told.steps] == sorted(policy.rules, key=lambda rule: not rule.deny)
    outcomes = [step.outcome for step in told.steps]
    looked_at = [step for step in told.steps if step.outcome != "not reached"]
    assert outcomes[: len(looked_at)].count("matches") <= 1
    for step in looked_at:
        assert (step.outcome == "matches") == _holds(policy, step.rule, request) == (step.failed is None)
    if "matches" in outcomes:
        assert outcomes.index("matches") == len(looked_at) - 1
        matched = looked_at[-1].rule
        assert told.to_json()["rule"] == matched.name
    else:
        assert looked_at == list(told.steps)


def _denying(**conditions: Any) -> Rule:
    return Rule("no", (HostPattern.parse("wiki.local"),), deny=True, **conditions)


@pytest.mark.parametrize("where", [0, 1])
@pytest.mark.parametrize(
    ("conditions", "denied"),
    [
        ({}, True),
        ({"ports": frozenset({80})}, True),
        ({"ports": frozenset({443})}, False),
        ({"methods": frozenset({"GET"})}, True),
        ({"methods": frozenset({"PUT"})}, False),
        ({"paths": (PathGlob.parse("/snippets/**"),)}, True),
        ({"paths": (PathGlob.parse("/other/**"),)}, False),
    ],
)
def test_a_rule_that_denies_wins_wherever_it_stands(
    where: int, conditions: dict[str, Any], denied: bool
) -> None:
    rules = [WIKI]
    rules.insert(where, _denying(**conditions))
    policy = Policy("p", tuple(rules), POLICY.upstreams)
    assert _reason(decide(policy, _request())) == ("denied-by-rule" if denied else "allowed")
    host_alone = denied and not {"methods", "paths"} & set(conditions)
    assert _reason(decide_host(policy, "wiki.local", 80)) == ("denied-by-rule" if host_alone else "allowed")


def test_a_denial_without_ports_means_all_of_them() -> None:
    rule = Rule("r", (HostPattern.parse("wiki.local"),), ports=frozenset({8443}))
    policy = Policy("p", (rule, _denying()))
    assert _reason(decide(policy, _request(scheme="https", port=8443))) == "denied-by-rule"
    assert _reason(decide_host(policy, "wiki.local", 8443)) == "denied-by-rule"
    assert _reason(decide_host(policy, "wiki.local")) == "denied-by-rule"
    narrow = Policy("p", (rule, _denying(ports=frozenset({443}))))
    assert isinstance(decide_host(narrow, "wiki.local"), Allow)
    assert isinstance(decide_host(narrow, "wiki.local", 8443), Allow)


def test_a_denial_may_be_as_broad_as_it_likes() -> None:
    every = Rule("no", (HostPattern.parse("*", allow_any=True),), deny=True, methods=frozenset({"DELETE"}))
    policy = Policy("p", (dataclasses.replace(WIKI, methods=None), every), POLICY.upstreams)
    assert _reason(decide(policy, _request(method="DELETE"))) == "denied-by-rule"
    assert isinstance(decide(policy, _request()), Allow)


@pytest.mark.parametrize(
    "change",
    [
        {"header_names": ("X",)},
        {"secrets": ("a.b",), "placeholders": frozenset({"header"})},
        {"client_certificate": True},
        {"rate": Rate(1, 1)},
        {"max_requests": 1},
        {"max_body": 0},
        {"cookies": True},
        {"inspect": True},
    ],
    ids=str,
)
def test_a_rule_that_denies_says_nothing_about_allowing(change: dict[str, Any]) -> None:
    with pytest.raises(PolicyError):
        dataclasses.replace(_denying(), **change)
    dataclasses.replace(_denying(), deny=False, **change)


def test_a_client_certificate_has_no_place_but_tls() -> None:
    rule = Rule("r", (HostPattern.parse("wiki.local"),), client_certificate=True)
    policy = Policy("p", (rule,), POLICY.upstreams)
    assert _reason(decide(policy, _request())) == "plain-http"
    assert isinstance(decide(policy, _request(scheme="https", port=443)), Allow)


@pytest.mark.parametrize(
    ("change", "adds"),
    [
        ({"host": "new.example"}, "'new.example'"),
        ({"port": 8080}, "ports = [8080]"),
        ({"path": "/other"}, "add /other"),
        ({"method": "PUT"}, "add PUT"),
    ],
)
def test_a_denial_says_what_to_add(change: dict[str, Any], adds: str) -> None:
    decision = decide(POLICY, dataclasses.replace(_request(), **change))
    assert isinstance(decision, Deny)
    assert adds in decision.hint
    assert decision.status == 403
    long = decide(POLICY, dataclasses.replace(_request(), path="/" + "x" * 5000))
    assert isinstance(long, Deny)
    assert len(long.hint) < 400
