"""Profiles: frozen, strict, and clear about what is wrong with them."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from nsharness.credentials.build import bindings_of
from nsharness.policy.connecting import ProxySettings
from nsharness.policy.decide import Allow, decide
from nsharness.policy.model import Policy
from nsharness.policy.profile import Profile, SandboxProxyRule
from nsharness.policy.request import RequestView
from nsharness.policy.schema import schema_table
from nsharness.policy.units import Rate

WIKI: dict[str, Any] = {
    "name": "wiki",
    "hosts": ["wiki.local"],
    "headers": {"Authorization": "Bearer {{ wiki.token }}"},
    "methods": ["GET"],
    "paths": ["/snippets/*"],
}


def _rule(**changes: Any) -> SandboxProxyRule:
    return SandboxProxyRule.model_validate({**WIKI, **changes})


def _profile(*rules: dict[str, Any], **keys: Any) -> Profile:
    return Profile.model_validate({"name": "p", "sandbox_proxy_rules": list(rules), **keys})


def test_a_profile_of_nothing_but_a_name_denies_everything() -> None:
    """K3."""
    policy = Profile(name="p").to_policy()
    assert policy == Policy("p")
    assert not isinstance(decide(policy, RequestView("GET", "https", "wiki.local", 443, "/")), Allow)
    assert Profile(name="p", sandbox_proxy_rules=()).to_policy() == policy


def test_a_profile_becomes_the_policy_that_it_says() -> None:
    profile = _profile(WIKI, upstreams={"WIKI.local": "127.0.0.1:4242"})
    policy = profile.to_policy()
    allowed = decide(policy, RequestView("GET", "http", "wiki.local", 80, "/snippets/durability"))
    assert isinstance(allowed, Allow)
    assert allowed.inject == ("Authorization",)
    assert policy.upstream("wiki.local", 80) == ("127.0.0.1", 4242)
    assert "token" not in str(policy.to_json())


@pytest.mark.parametrize("key", ["hosts", "methods", "paths", "ports"])
@pytest.mark.parametrize("empty", [None, [], ()], ids=str)
def test_a_condition_that_is_present_but_empty_or_null_is_an_error(key: str, empty: object) -> None:
    """K3: an empty allow-list has been read as "allow all"."""
    with pytest.raises(ValidationError, match=key):
        _rule(**{key: empty})


def test_hosts_are_required_and_other_conditions_are_not() -> None:
    with pytest.raises(ValidationError, match="hosts"):
        SandboxProxyRule.model_validate({"name": "r"})
    rule = SandboxProxyRule(name="r", hosts=("wiki.local",)).to_rule()
    assert (rule.methods, rule.paths, rule.ports, rule.header_names) == (None, None, None, ())


@pytest.mark.parametrize(
    "keys",
    [
        {"sandbox_proxy_rules": None},
        {"upstreams": None},
        {"env": None},
        {"allowed_tools": None},
        {"skill_source": None},
        {"workspace": None},
        {"skill_source": ""},
        {"unknown": 1},
        {"name": "No Name"},
        {"name": ""},
        {"name": "../x"},
        {"name": 1},
        {"model": ""},
        {"allowed_tools": ["exec", "exec"]},
        {"allowed_tools": "exec"},
        {"proxy_auth": "bearer"},
        {"proxy": {"auth": "none"}},
        {"proxy": {"auht": "bearer"}},
        {"proxy": None},
        {"proxy": "bearer"},
        {"stray_placeholders": "drop"},
        {"stray_placeholders": None},
        {"upstream_ca": ""},
        {"upstream_ca": None},
        {"env": {"TOKEN": "{{ placeholder wiki.token"}},
        {"env": {"TOKEN": "{{ placeholder unnamed.key }}"}},
        {"env": {"A B": "x"}},
        {"env": {"A": "x\0"}},
        {"env": {"TOKEN": "{{ wiki.token }}"}},
        {"env": {"A": 1}},
        {"upstreams": {"wiki.local": "127.0.0.1"}},
        {"upstreams": {"wiki.local": "localhost:80"}},
        {"upstreams": {"wiki.local": "169.254.169.254:80"}},
        {"upstreams": {"wiki.local:0": "127.0.0.1:80"}},
        {"upstreams": {"*.wiki.local": "127.0.0.1:80"}},
        {"upstreams": {"wiki.local": "127.0.0.1:80", "wiki.local:80": "127.0.0.1:81"}},
    ],
    ids=str,
)
def test_a_profile_with_a_wrong_value_is_refused(keys: dict[str, Any]) -> None:
    """K3, K26."""
    with pytest.raises(ValidationError):
        _profile(**keys)


@pytest.mark.parametrize(
    "changes",
    [
        {"unknown": 1},
        {"name": ""},
        {"name": "two words"},
        {"hosts": "wiki.local"},
        {"hosts": ["http://wiki.local"]},
        {"hosts": ["wiki.local:80"]},
        {"hosts": ["*"]},
        {"hosts": ["*.com"]},
        {"hosts": ["*.co.uk"]},
        {"hosts": ["*.github.io"]},
        {"hosts": ["*.s3.eu-west-1.amazonaws.com"]},
        {"hosts": ["*"], "allow_any": True},
        {"allow_any": True},
        {"rate": "often"},
        {"rate": 10},
        {"rate": None},
        {"max_requests": 0},
        {"max_requests": "5"},
        {"max_requests": True},
        {"max_requests": None},
        {"max_body": "lots"},
        {"max_body": -1},
        {"max_body": True},
        {"max_body": None},
        {"exclusive": None},
        {"exclusive": 1},
        {"cookies": "yes"},
        {"inspect": 1},
        {"secrets": ["wiki.token"]},
        {"placeholders": ["header"]},
        {"secrets": [], "placeholders": ["header"]},
        {"secrets": ["wiki.token"], "placeholders": []},
        {"secrets": ["wiki.token"], "placeholders": None},
        {"secrets": ["wiki.token"], "placeholders": ["query"]},
        {"secrets": ["wiki.token"], "placeholders": ["header", "header"]},
        {"secrets": ["wiki.token", "wiki.token"], "placeholders": ["header"]},
        {"secrets": ["{{ wiki.token }}"], "placeholders": ["header"]},
        {"secrets": ["wiki"], "placeholders": ["header"]},
        {"client_cert": "{{ corp.cert }}"},
        {"client_key": "{{ corp.key }}"},
        {"client_cert": "/etc/cert.pem", "client_key": "/etc/key.pem"},
        {"client_cert": "{{ corp.cert }}", "client_key": "{{ corp.key }} "},
        {"client_cert": "{{ corp.cert }}", "client_key": "{{ a.b }}{{ c.d }}"},
        {"client_cert": "{{ corp.cert }}", "client_key": None},
        {"deny": True},
        {"deny": 1},
        {"headers": {}, "deny": True},
        {"deny": None},
        {"allow_any": 1},
        {"methods": ["get"]},
        {"methods": ["GET /"]},
        {"methods": ["CONNECT"]},
        {"methods": ["TRACE"]},
        {"paths": ["snippets/*"]},
        {"paths": ["/a?b=c"]},
        {"paths": ["/a/../b"]},
        {"ports": [0]},
        {"ports": [65536]},
        {"ports": ["80"]},
        {"ports": [True]},
        {"headers": None},
        {"headers": {"Authorization": ""}},
        {"headers": {"Authorization": "Bearer {{ wiki.token }"}},
        {"headers": {"Authorization": "Bearer {{ wiki }}"}},
        {"headers": {"Authorization": "Bearer {{ Wiki.token }}"}},
        {"headers": {"Authorization": "Bearer {{ wiki.token }}\r\nHost: x"}},
        {"headers": {"Authorization": " Bearer {{ wiki.token }}"}},
        {"headers": {"Authorization": "Bearer {{ wiki.token }} "}},
        {"headers": {"Authorization": "Bearer\0"}},
        {"headers": {"Authorization": "é"}},
        {"headers": {"Bad Name": "x"}},
        {"headers": {"": "x"}},
        {"headers": {":authority": "x"}},
        {"headers": {"Host": "attacker.example"}},
        {"headers": {"content-length": "0"}},
        {"headers": {"Transfer-Encoding": "chunked"}},
        {"headers": {"Connection": "x"}},
        {"headers": {"Proxy-Authorization": "x"}},
        {"headers": {"X-HTTP-Method-Override": "DELETE"}},
        {"headers": {"X-Key": "a", "x-key": "b"}},
        {"headers": {"x-key": "a", "X-Key": "b"}},
    ],
    ids=str,
)
def test_a_rule_with_a_wrong_value_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        _rule(**changes)


def test_an_over_broad_pattern_passes_with_allow_any_and_without_headers() -> None:
    for host in ("*", "*.com", "*.github.io"):
        rule = _rule(hosts=[host], headers={}, allow_any=True).to_rule()
        assert rule.allow_any
        assert str(rule.hosts[0]) == host
    assert _rule(hosts=["*.example.com"]).hosts == ("*.example.com",)


def test_hosts_and_paths_are_kept_in_canonical_form() -> None:
    rule = _rule(hosts=["WIKI.local.", "MÜNCHEN.example"], paths=["/%61/*"])
    assert rule.hosts == ("wiki.local", "xn--mnchen-3ya.example")
    assert rule.paths == ("/a/*",)


def test_two_rules_do_not_share_a_name() -> None:
    with pytest.raises(ValidationError, match="two rules are called wiki"):
        _profile(WIKI, {**WIKI, "hosts": ["other.local"]})


def test_a_host_and_header_have_one_template() -> None:
    other = {**WIKI, "name": "other", "hosts": ["*.example.com", "WIKI.LOCAL"]}
    _profile(WIKI, other)
    for headers in ({"Authorization": "Bearer {{ wiki.admin }}"}, {"authorization": "x"}):
        with pytest.raises(ValidationError, match="wiki and other"):
            _profile(WIKI, {**other, "headers": headers})


def test_a_message_does_not_quote_what_it_refuses() -> None:
    """A literal token in the wrong place must not come out in an error."""
    for changes in (
        {"headers": {"Authorization": "hunter22222 {{ oops }}"}},
        {"headers": {"Authorization": ["hunter22222"]}},
        {"header": "hunter22222"},
    ):
        with pytest.raises(ValidationError) as caught:
            _rule(**changes)
        assert "hunter22222" not in str(caught.value)


def test_a_profile_does_not_change_and_survives_pickling() -> None:
    profile = _profile(WIKI)
    with pytest.raises(ValidationError):
        profile.name = "q"  # type: ignore[misc]
    with pytest.raises(ValidationError):
        profile.sandbox_proxy_rules[0].hosts = ("attacker.example",)  # type: ignore[misc]
    assert pickle.loads(pickle.dumps(profile)) == profile


def test_upstreams_are_added_with_validation() -> None:
    profile = _profile(WIKI, upstreams={"wiki.local": "127.0.0.1:1", "b.local": "127.0.0.1:2"})
    more = profile.with_upstreams({"wiki.local:80": "127.0.0.1:4242"})
    assert more.upstreams == {"wiki.local:80": "127.0.0.1:4242", "b.local:80": "127.0.0.1:2"}
    assert more.sandbox_proxy_rules == profile.sandbox_proxy_rules
    assert profile.upstreams["wiki.local:80"] == "127.0.0.1:1"
    with pytest.raises(ValueError, match=r"wiki\.local"):
        profile.with_upstreams({"wiki.local": "nowhere:80"})


rules = st.fixed_dictionaries(
    {
        "hosts": st.lists(
            st.sampled_from(["wiki.local", "*.example.com", "192.0.2.7"]), min_size=1, max_size=2
        )
    },
    optional={
        "methods": st.lists(st.sampled_from(["GET", "PUT"]), min_size=1),
        "paths": st.lists(st.sampled_from(["/a", "/b/**"]), min_size=1),
        "ports": st.lists(st.sampled_from([80, 8443]), min_size=1),
        "headers": st.just({"Authorization": "Bearer {{ wiki.token }}"}),
    },
)


@given(st.lists(rules, max_size=3), st.dictionaries(st.sampled_from(["PATH", "LANG"]), st.text("ab")))
def test_a_profile_comes_back_equal_from_what_was_written(
    rules: list[dict[str, Any]], env: dict[str, str]
) -> None:
    named = [{"name": f"r{index}", **rule} for index, rule in enumerate(rules)]
    profile = _profile(*named, env=env)
    assert Profile.model_validate_json(profile.model_dump_json(exclude_unset=True)) == profile
    assert Policy.from_json(profile.to_policy().to_json()) == profile.to_policy()


@pytest.mark.parametrize("model", [Profile, SandboxProxyRule, ProxySettings])
def test_every_key_is_described_in_the_table(
    model: type[Profile] | type[SandboxProxyRule] | type[ProxySettings],
) -> None:
    table = schema_table(model)
    lines = table.splitlines()
    assert table.endswith("|\n")
    assert len(lines) == 2 + len(model.model_fields)
    for name, field in model.model_fields.items():
        (line,) = [line for line in lines if line.startswith(f"| `{name}` |")]
        assert field.description
        assert field.description in line
        assert len(line.split(" | ")) == 4
        assert ("required" in line.split(" | ")[2]) == field.is_required()


def test_the_table_speaks_of_types_as_toml_knows_them() -> None:
    table = schema_table(SandboxProxyRule)
    assert "| `hosts` | list of strings | required |" in table
    assert "| `headers` | table of strings | empty |" in table
    assert "| `ports` | list of integers | absent |" in table
    assert "| `allow_any` | boolean | `false` |" in table
    profile = schema_table(Profile)
    assert "| `sandbox_proxy_rules` | list of rules | empty |" in profile
    assert '| `stray_placeholders` | `"block"` or `"leave"` | `"block"` |' in profile
    assert "| `proxy` | table | see below |" in profile
    auth = '| `auth` | `"listener"` or `"bearer"` or `"mtls"` | `"listener"` |'
    assert auth in schema_table(ProxySettings)
    assert "| `max_body` | string or integer | absent |" in table
    assert '| `placeholders` | list of `"header"` or `"basic"` | empty |' in table
    assert '| `allowed_tools` | list of strings | `["exec", "skill"]` |' in profile


DENY: dict[str, Any] = {"name": "no", "hosts": ["*"], "deny": True}


def test_a_rule_that_denies_may_be_broad_and_has_conditions_only() -> None:
    _profile(WIKI, DENY, {**DENY, "name": "more", "hosts": ["*.com"], "paths": ["/x"], "ports": [1]})
    assert _profile(DENY).to_policy().rules[0].deny
    for key, value in (
        ("headers", {"X": "y"}),
        ("rate", "1/s"),
        ("max_requests", 1),
        ("max_body", 1),
        ("exclusive", True),
        ("cookies", False),
        ("inspect", False),
        ("allow_any", True),
        ("client_cert", "{{ a.b }}"),
        ("secrets", ["a.b"]),
    ):
        with pytest.raises(ValidationError, match=r"denies|together"):
            _profile({**DENY, key: value})


def test_everything_that_a_rule_says_arrives_in_the_policy() -> None:
    rule = _rule(
        rate="10/s",
        max_requests=7,
        max_body="10MB",
        exclusive=False,
        cookies=True,
        inspect=True,
        secrets=["wiki.token", "other.key"],
        placeholders=["basic", "header"],
        client_cert="{{ corp.cert }}",
        client_key="{{corp.key}}",
    )
    made = rule.to_rule()
    assert (made.rate, made.max_requests, made.max_body) == (Rate(10, 1), 7, 10_000_000)
    assert (made.exclusive, made.cookies, made.inspect, made.deny) == (False, True, True, False)
    assert (made.secrets, set(made.placeholders)) == (("wiki.token", "other.key"), {"basic", "header"})
    assert made.client_certificate
    assert rule.client_key == "{{ corp.key }}"
    assert _rule(max_body=512).to_rule().max_body == 512
    plain = _rule().to_rule()
    assert (plain.exclusive, plain.cookies, plain.inspect, plain.rate) == (True, False, False, None)


def test_settings_of_the_profile_arrive_in_the_policy() -> None:
    assert _profile().to_policy() == Policy("p", proxy_auth="listener", stray_placeholders="block")
    policy = _profile(proxy={"auth": "mtls"}, stray_placeholders="leave").to_policy()
    assert (policy.proxy_auth, policy.stray_placeholders) == ("mtls", "leave")


def test_a_placeholder_belongs_to_a_secret_that_some_rule_turns_it_into() -> None:
    """K18: one that nobody turns into anything would be sent as it stands, and nobody told."""
    env = {"KEY": "x-{{ placeholder api.key }}", "LANG": "C"}
    entitled = {"name": "api", "hosts": ["api.example"], "secrets": ["api.key"], "placeholders": ["header"]}
    profile = _profile(WIKI, entitled, env=env)
    assert profile.environment(lambda ref: f"<{ref}>") == {"KEY": "x-<api.key>", "LANG": "C"}
    kinds = [binding.kind for binding in bindings_of(profile)]
    assert kinds == ["header", "placeholder"]
    for rules in ([WIKI], [{**entitled, "secrets": ["api.other"]}], []):
        with pytest.raises(ValidationError, match=r"api\.key"):
            _profile(*rules, env=env)


def test_a_host_has_one_client_certificate() -> None:
    mine = {"name": "a", "hosts": ["a.example"], "client_cert": "{{ a.cert }}", "client_key": "{{ a.key }}"}
    _profile(mine, {**mine, "name": "b"})
    with pytest.raises(ValidationError, match=r"client-key"):
        _profile(mine, {**mine, "name": "b", "client_key": "{{ b.key }}"})
