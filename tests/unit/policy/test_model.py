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
from nsharness.policy.units import Rate

patterns = st.sampled_from(
    ["wiki.local", "*.example.com", "192.0.2.7", "2001:db8::7", "xn--mnchen-3ya.example"]
)
rules = (
    st.builds(
        Rule,
        name=st.text("abc-", min_size=1, max_size=8),
        hosts=st.lists(patterns.map(HostPattern.parse), min_size=1, max_size=3).map(tuple),
        header_names=st.sampled_from([(), ("Authorization",), ("X-A", "X-B")]),
        methods=st.none() | st.frozensets(st.sampled_from(["GET", "PUT"]), min_size=1),
        paths=st.none()
        | st.lists(st.sampled_from(["/", "/a/*", "/**", "/a%2Ab"]).map(PathGlob.parse), min_size=1).map(
            tuple
        ),
        ports=st.none() | st.frozensets(st.integers(1, 65535), min_size=1, max_size=3),
        rate=st.none() | st.builds(Rate, st.integers(1, 999), st.sampled_from([1, 60, 3600, 86400])),
        max_requests=st.none() | st.integers(1, 9999),
        max_body=st.none() | st.integers(0, 1 << 40),
        exclusive=st.booleans(),
        cookies=st.booleans(),
        inspect=st.booleans(),
        client_certificate=st.booleans(),
    )
    | st.builds(
        Rule,
        name=st.just("placeholders"),
        hosts=st.just((HostPattern.parse("wiki.local"),)),
        secrets=st.sampled_from([("a.key",), ("a.key", "b.key")]),
        placeholders=st.frozensets(st.sampled_from(["header", "basic"]), min_size=1),
    )
    | st.builds(
        Rule, name=st.just("no"), hosts=st.just((HostPattern.parse("*", allow_any=True),)), deny=st.just(True)
    )
)
policies = st.builds(
    Policy,
    profile=st.text("abc", min_size=1, max_size=8),
    rules=st.lists(rules, max_size=3).map(tuple),
    upstreams=st.dictionaries(
        st.sampled_from(["wiki.local:80", "[2001:db8::7]:443", "192.0.2.7:80"]),
        st.tuples(st.sampled_from(["127.0.0.1", "::1", "10.0.0.1"]), st.integers(1, 65535)),
    ),
    proxy_auth=st.sampled_from(["listener", "bearer", "mtls"]),
    stray_placeholders=st.sampled_from(["block", "leave"]),
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
        rate=Rate(10, 1),
        max_requests=5,
        max_body=10,
        secrets=("wiki.token",),
        placeholders=frozenset({"header"}),
    )
    return Policy("p", (rule,), {"wiki.local:80": ("127.0.0.1", 4242)}).to_json()


def _places(value: Any, place: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The place of every key and element in a JSON value."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [found for key, inner in items for found in ((*place, key), *_places(inner, (*place, key)))]


_WRONG: tuple[Any, ...] = ({}, 3.5, True, "\0", -1, [[]])
_FLAGS = ("exclusive", "cookies", "inspect", "client_certificate")
# Names may be any text, and no upstreams are upstreams, too.
_CASES = [
    (place, wrong)
    for place in _places(_policy())
    for wrong in _WRONG
    if (place[-1], wrong) not in (("name", "\0"), ("profile", "\0"), ("upstreams", {}))
    # A flag of the other value is a flag, and without these there is no limit.
    and not (wrong is True and place[-1] in _FLAGS)
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
    (data if where == "policy" else data["rules"][0])["allow"] = []
    with pytest.raises(PolicyError, match="allow"):
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
    data["rules"][0] |= {"header_names": [], "secrets": [], "placeholders": []}
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
    "address",
    [
        "wiki.local",
        "0.0.0.0",
        "::",
        "224.0.0.1",
        "169.254.169.254",
        "fe80::1",
        "127.1",
        "fd00:ec2::254",
        "168.63.129.16",
    ],
)
def test_an_upstream_leads_to_an_ordinary_address(address: str) -> None:
    with pytest.raises(ValueError, match=r"upstream|IP|host|authority"):
        check_upstream_address(address, 80)


def test_local_addresses_are_those_of_this_machine_and_its_private_networks() -> None:
    assert all(
        map(is_local, ("127.0.0.1", "::1", "10.0.0.1", "172.16.0.1", "192.168.1.1", "fd00::1", "100.64.0.1"))
    )
    assert not any(map(is_local, ("93.184.216.34", "2606:2800:21f::1")))


@pytest.mark.parametrize(
    "change",
    [
        {"max_requests": 0},
        {"max_requests": -1},
        {"max_body": -1},
        {"secrets": ("a.key",)},
        {"placeholders": frozenset({"header"})},
        {"secrets": ("a.key",), "placeholders": frozenset({"query"})},
        {"secrets": ("a",), "placeholders": frozenset({"header"})},
        {"allow_any": True, "client_certificate": True},
        {"allow_any": True, "secrets": ("a.key",), "placeholders": frozenset({"header"})},
    ],
    ids=str,
)
def test_a_rule_that_contradicts_itself_is_none(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"\S"):
        Rule("r", (HostPattern.parse("wiki.local"),), **change)


def test_a_host_is_credentialed_by_whatever_rule() -> None:
    """K17."""
    wiki, sub = HostPattern.parse("wiki.local"), HostPattern.parse("*.wiki.local")
    for giving in (
        Rule("g", (sub,), ("X",)),
        Rule("g", (sub,), secrets=("a.key",), placeholders=frozenset({"basic"})),
        Rule("g", (sub,), client_certificate=True),
    ):
        policy = Policy("p", (Rule("open", (wiki, sub)), giving))
        assert policy.credentialed("a.wiki.local")
        assert not policy.credentialed("wiki.local")
        assert giving.conditional
