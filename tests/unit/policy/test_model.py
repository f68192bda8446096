"""The policy survives its way to the proxy as JSON, and nothing else is taken for one."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsharness.policy.hosts import HostPattern
from nsharness.policy.model import Policy, PolicyError, Rule, check_upstream_address, is_local
from nsharness.policy.paths import PathGlob

patterns = st.sampled_from(
    ["wiki.local", "*.example.com", "192.0.2.7", "2001:db8::7", "xn--mnchen-3ya.example"]
)
rules = st.builds(
    Rule,
    name=st.text("abc-", min_size=1, max_size=8),
    hosts=st.lists(patterns.map(HostPattern.parse), min_size=1, max_size=3).map(tuple),
    header_names=st.sampled_from([(), ("Authorization",), ("X-A", "X-B")]),
    methods=st.none() | st.frozensets(st.sampled_from(["GET", "PUT"]), min_size=1),
    paths=st.none()
    | st.lists(st.sampled_from(["/", "/a/*", "/**", "/a%2Ab"]).map(PathGlob.parse), min_size=1).map(tuple),
    ports=st.none() | st.frozensets(st.integers(1, 65535), min_size=1, max_size=3),
)
policies = st.builds(
    Policy,
    profile=st.text("abc", min_size=1, max_size=8),
    rules=st.lists(rules, max_size=3).map(tuple),
    upstreams=st.dictionaries(
        st.sampled_from(["wiki.local:80", "[2001:db8::7]:443", "192.0.2.7:80"]),
        st.tuples(st.sampled_from(["127.0.0.1", "::1", "10.0.0.1"]), st.integers(1, 65535)),
    ),
    proxy_auth=st.sampled_from(["listener", "bearer"]),
)


@given(policies)
def test_a_policy_comes_back_equal_from_json(policy: Policy) -> None:
    assert Policy.from_json(json.loads(json.dumps(policy.to_json()))) == policy


def _policy() -> dict[str, Any]:
    rule = Rule(
        "wiki",
        (HostPattern.parse("wiki.local"),),
        ("Authorization",),
        frozenset({"GET"}),
        (PathGlob.parse("/snippets/*"),),
        frozenset({80}),
    )
    return Policy("p", (rule,), {"wiki.local:80": ("127.0.0.1", 4242)}).to_json()


def _places(value: Any, place: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The place of every key and element in a JSON value."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [found for key, inner in items for found in ((*place, key), *_places(inner, (*place, key)))]


_WRONG: tuple[Any, ...] = ({}, 3.5, True, "\0", -1, [[]])
# Names may be any text, and no upstreams are upstreams, too.
_CASES = [
    (place, wrong)
    for place in _places(_policy())
    for wrong in _WRONG
    if (place[-1], wrong) not in (("name", "\0"), ("profile", "\0"), ("upstreams", {}))
]


@pytest.mark.parametrize(("place", "wrong"), _CASES, ids=str)
def test_a_value_of_another_kind_anywhere_is_refused(place: tuple[Any, ...], wrong: Any) -> None:
    """K12: a policy that was not understood is not applied in part."""
    data = copy.deepcopy(_policy())
    inner: Any = data
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = wrong
    with pytest.raises(ValueError, match=r"\S"):
        Policy.from_json(data)


@pytest.mark.parametrize("where", ["policy", "rule"])
def test_a_key_more_or_less_is_refused(where: str) -> None:
    """K3: an unknown key is a policy that was meant otherwise."""
    for key in list(_policy() if where == "policy" else _policy()["rules"][0]):
        data = _policy()
        del (data if where == "policy" else data["rules"][0])[key]
        with pytest.raises(PolicyError, match=key):
            Policy.from_json(data)
    data = _policy()
    (data if where == "policy" else data["rules"][0])["deny"] = []
    with pytest.raises(PolicyError, match="deny"):
        Policy.from_json(data)


@pytest.mark.parametrize("data", [None, [], "policy", 1, {}])
def test_what_is_no_policy_is_refused(data: object) -> None:
    with pytest.raises(PolicyError):
        Policy.from_json(data)


def test_an_over_broad_pattern_does_not_pass_as_json_either() -> None:
    data = _policy()
    data["rules"][0]["hosts"] = ["*"]
    with pytest.raises(ValueError, match="over-broad"):
        Policy.from_json(data)
    data["rules"][0]["allow_any"] = True
    with pytest.raises(PolicyError, match="allow_any"):
        Policy.from_json(data)
    data["rules"][0]["header_names"] = []
    assert Policy.from_json(data).rules[0].hosts[0].matches("anything.example")


def test_upstreams_do_not_change_with_the_mapping_they_came_from() -> None:
    mapping = {"wiki.local:80": ("127.0.0.1", 4242)}
    policy = Policy("p", upstreams=mapping)
    mapping["wiki.local:80"] = ("93.184.216.34", 80)
    assert policy.upstream("wiki.local", 80) == ("127.0.0.1", 4242)
    assert policy.upstream("wiki.local", 443) is None
    with pytest.raises(TypeError):
        policy.upstreams["x:1"] = ("127.0.0.1", 1)  # type: ignore[index]


@pytest.mark.parametrize(
    "name", ["wiki.local", "Wiki.local:80", "wiki.local:080", "2001:db8::7:80", "*.a.b:80"]
)
def test_an_upstream_is_named_in_canonical_form(name: str) -> None:
    with pytest.raises(ValueError, match=r"upstream|IP|host|authority"):
        Policy("p", upstreams={name: ("127.0.0.1", 1)})


@pytest.mark.parametrize(
    "address", ["wiki.local", "0.0.0.0", "::", "224.0.0.1", "169.254.169.254", "fe80::1", "127.1"]
)
def test_an_upstream_leads_to_an_ordinary_address(address: str) -> None:
    with pytest.raises(ValueError, match=r"upstream|IP|host|authority"):
        check_upstream_address(address, 80)


def test_local_addresses_are_those_of_this_machine_and_its_private_networks() -> None:
    assert all(
        map(is_local, ("127.0.0.1", "::1", "10.0.0.1", "172.16.0.1", "192.168.1.1", "fd00::1", "100.64.0.1"))
    )
    assert not any(map(is_local, ("93.184.216.34", "2606:2800:21f::1")))
