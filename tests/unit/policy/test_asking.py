"""Which hosts are asked about, and that a yes is one rule without a credential and nothing else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsharness.policy.asking import askable, askable_host, granted, shown_host, shown_method
from nsharness.policy.decide import Allow, Deny, decide, decide_host
from nsharness.policy.hosts import HostError, HostPattern, canonical_host, is_ip
from nsharness.policy.model import Policy, Rule
from nsharness.policy.paths import PathGlob
from nsharness.policy.request import RequestView
from nsharness.policy.route import Intercept, route


def rule(name: str, *hosts: str, **more: object) -> Rule:
    broad = bool(more.get("deny"))
    return Rule(name, tuple(HostPattern.parse(h, allow_any=broad) for h in hosts), **more)  # type: ignore[arg-type]


RULES = (
    rule("secret", "api.example.com", header_names=("Authorization",), paths=(PathGlob.parse("/v1/*"),)),
    rule("never", "*.evil.example", "bad.example.com", deny=True),
    rule("no-delete", "*.example.net", deny=True, methods=frozenset({"DELETE"})),
)
POLICY = Policy("p", RULES, {"dev.local:80": ("127.0.0.1", 1)}, unknown="ask")
SILENT = Policy("p", RULES, {"dev.local:80": ("127.0.0.1", 1)})

LABELS = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,6}[a-z0-9])?", fullmatch=True)
NAMES = st.lists(LABELS, min_size=1, max_size=3).map(".".join)
HOSTS = st.one_of(
    NAMES,
    NAMES.map(lambda name: f"{name}.com"),
    st.sampled_from(
        ["api.example.com", "a.evil.example", "bad.example.com", "dev.local", "a.local", "10.0.0.1", "::1"]
    ),
)
METHODS = st.sampled_from(["GET", "DELETE"])


def view(host: str, method: str = "GET", port: int = 443) -> RequestView:
    return RequestView(method, "https" if port != 80 else "http", host, port, "/")


@given(HOSTS, METHODS, st.sampled_from([80, 443, 22, 8443]))
def test_only_a_name_that_no_rule_is_about_is_asked_about(host: str, method: str, port: int) -> None:
    try:
        host = canonical_host(host)
    except HostError:
        return
    request = view(host, method, port)
    before, after = decide(POLICY, request), decide(granted(POLICY, [host]), request)
    assert not askable(SILENT, request)
    if askable(POLICY, request):
        assert isinstance(before, Deny)
        assert before.reason == "host-not-allowed"
        assert isinstance(after, Allow)
        assert not is_ip(host)
        assert port in (80, 443)
        assert askable_host(POLICY, host, port)
        assert askable_host(POLICY, host)
    elif isinstance(before, Deny) and before.reason != "host-not-allowed":
        assert isinstance(after, Deny)


@given(st.lists(HOSTS, max_size=4), HOSTS, METHODS)
def test_a_yes_gives_no_credential_and_changes_nothing_for_others(
    hosts: list[str], other: str, method: str
) -> None:
    canonical = []
    for host in (*hosts, other):
        try:
            canonical.append(canonical_host(host))
        except HostError:
            return
    *named, asked = canonical
    after = granted(POLICY, named)
    assert after.credentialed(asked) == POLICY.credentialed(asked)
    decision = decide(after, view(asked, method))
    if isinstance(decision, Allow) and decision.rule.name == "asked":
        assert asked in named
        assert decision.inject == ()
        assert isinstance(route(after, asked, 443), Intercept)
    else:
        assert decision == decide(POLICY, view(asked, method))
    assert granted(after, named) == after
    assert Policy.from_json(after.to_json()) == after


@pytest.mark.parametrize("host", ["localhost", "printer", "x.local", "metadata.google.internal", "1.2.3.4"])
def test_what_could_only_be_private_is_not_asked_about(host: str) -> None:
    assert not askable_host(POLICY, host)
    assert isinstance(decide_host(POLICY, host), Deny)
    assert askable_host(POLICY, "dev.local")


def test_a_host_is_shown_by_its_end_and_in_ascii() -> None:
    """K27"""
    long = canonical_host("github.com." + "a" * 60 + "." + "b" * 60 + "." + "c" * 60 + ".attacker.example")
    assert ".attacker.example " in shown_host(long)
    assert "github" not in shown_host(long)
    assert shown_host(canonical_host("раypal.com")).startswith("xn--")
    assert shown_method("GET") == "GET"
    assert shown_method("OK-TO-ALLOW") == "an unusual method"


@given(st.text())
def test_what_is_shown_has_no_character_that_is_not_in_names(text: str) -> None:
    try:
        shown = shown_host(text)
    except ValueError:
        return
    assert set(shown) <= set("abcdefghijklmnopqrstuvwxyz0123456789_.-… ()")
    assert len(shown) < 120
