"""On hosts with a credential nothing passes that could change a request, or bring another credential."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsharness.policy.decide import Deny, body_denied, decide
from nsharness.policy.guards import credential_in_query, fold, override_header
from nsharness.policy.hosts import HostPattern
from nsharness.policy.model import Policy, Rule
from nsharness.policy.paths import PathGlob
from nsharness.policy.request import RequestView

HOSTS = (HostPattern.parse("wiki.local"),)
WIKI = Rule("wiki", HOSTS, ("Authorization",), frozenset({"GET"}), (PathGlob.parse("/snippets/*"),))
OPEN_PART = Rule("open", HOSTS)
UPSTREAMS = {"wiki.local:80": ("127.0.0.1", 4242)}
BOTH = Policy("p", (WIKI, OPEN_PART), UPSTREAMS)


def _on(policy: Policy, query: str = "", *headers: tuple[str, str], **change: Any) -> str:
    request = RequestView("GET", "http", "wiki.local", 80, "/snippets/durability", query, headers)
    decision = decide(policy, dataclasses.replace(request, **change))
    return decision.reason if isinstance(decision, Deny) else "allowed"


@pytest.mark.parametrize("path", ["/snippets/a", "/by/the/other/rule"])
@pytest.mark.parametrize(
    "name",
    [
        "X-HTTP-Method-Override",
        "x-http-method",
        "X_Method_Override",
        "x_original_url",
        "X-Rewrite-URL",
        "X-Original-Method",
    ],
)
def test_a_credentialed_host_gets_no_header_that_overrides_what_was_decided(name: str, path: str) -> None:
    """K7."""
    assert _on(BOTH, "", (name, "DELETE"), path=path) == "method-override"
    assert _on(Policy("p", (OPEN_PART,)), "", (name, "DELETE"), path=path) == "allowed"
    assert _on(BOTH, "", ("X-Other", "DELETE"), path=path) == "allowed"


def test_trace_does_not_go_to_a_credentialed_host_by_any_rule() -> None:
    assert _on(BOTH, method="TRACE", path="/other") == "method-not-allowed"
    assert _on(Policy("p", (OPEN_PART,)), method="TRACE") == "allowed"


QUERIES = (
    "access_token=x",
    "ACCESS_TOKEN=x",
    "access-token=x",
    "a=b&api_key=x",
    "a=b;api_key=x",
    "api%5Fkey=x",
    "%61pi_key=x",
    "key=x",
    "key",
    "key[]=x",
    "key%5B0%5D=x",
    "+key=x",
    "sig=x",
    "Signature=x",
    "X-Amz-Signature=x",
    "x-amz-credential=x",
    "X-Goog-Signature=x",
    "X_Goog_Anything=x",
)


@pytest.mark.parametrize("query", QUERIES)
def test_a_credentialed_host_gets_no_key_in_a_query(query: str) -> None:
    """K17: a presigned URL or a key of the attacker's own account is no way out."""
    assert _on(BOTH, query) == "query-credential"
    assert _on(BOTH, query, path="/by/the/other/rule") == "query-credential"
    assert _on(Policy("p", (OPEN_PART,)), query) == "allowed"
    lax = Policy("p", (dataclasses.replace(WIKI, exclusive=False),), UPSTREAMS)
    assert _on(lax, query) == "allowed"


@pytest.mark.parametrize(
    "query", ["", "q=key", "keys=1", "monkey=1", "signatures=1", "x-am=1", "a=b%26key=x", "a=sig", "%ff=1"]
)
def test_other_parameters_pass(query: str) -> None:
    assert _on(BOTH, query) == "allowed"


@given(st.text(max_size=20), st.sampled_from(QUERIES), st.text(max_size=20))
def test_a_key_is_found_wherever_it_stands(before: str, pair: str, after: str) -> None:
    for separator in "&;":
        assert credential_in_query(f"{before}{separator}{pair}{separator}{after}") is not None


@given(st.text(max_size=20))
def test_only_headers_that_ask_for_another_target_are_overrides(name: str) -> None:
    found = override_header([(name, "")])
    assert found is None or found == fold(name)


@pytest.mark.parametrize(
    ("limit", "lengths", "reason"),
    [
        (None, ("99999999999999999999",), "allowed"),
        (10, (), "allowed"),
        (10, ("10",), "allowed"),
        (10, ("11",), "body-too-large"),
        (10, ("1", "11"), "body-too-large"),
        (0, ("1",), "body-too-large"),
        (0, ("0",), "allowed"),
        (10, ("x",), "allowed"),  # malformed lengths are refused with the headers
        (10, ("٣٣",), "allowed"),
    ],
)
def test_an_announced_body_is_measured(limit: int | None, lengths: tuple[str, ...], reason: str) -> None:
    rule = dataclasses.replace(OPEN_PART, max_body=limit)
    headers = [("Content-Length", length) for length in lengths]
    assert _on(Policy("p", (rule,)), "", *headers) == reason


def test_a_body_is_measured_as_it_comes() -> None:
    rule = dataclasses.replace(OPEN_PART, max_body=10_000_000)
    assert body_denied(rule, 10_000_000) is None
    denied = body_denied(rule, 10_000_001)
    assert denied is not None
    assert (denied.status, denied.rule) == (413, "open")
    assert "10MB" in denied.hint
    assert body_denied(OPEN_PART, 1 << 60) is None
