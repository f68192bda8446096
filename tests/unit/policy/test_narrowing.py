"""A project's profile on a person's: whatever it says, nothing more is granted than the person's grants."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsharness.errors import NsharnessError
from nsharness.policy.decide import Allow, decide, decide_host
from nsharness.policy.narrowing import narrowed
from nsharness.policy.profile import Profile
from nsharness.policy.request import RequestView, view
from nsharness.policy.route import Tunnel, route

HOSTS = ["a.test", "b.test", "x.a.test", "*.a.test", "*.test"]
PATHS = ["/", "/one", "/one/*", "/**"]
SECRET = {"Authorization": "Bearer {{ wiki.token }}"}


def conditions() -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries(
        {
            "hosts": st.lists(st.sampled_from(HOSTS), min_size=1, max_size=2, unique=True),
            "allow_any": st.just(True),
        },
        optional={
            "methods": st.lists(st.sampled_from(["GET", "POST"]), min_size=1, max_size=2, unique=True),
            "paths": st.lists(st.sampled_from(PATHS), min_size=1, max_size=2, unique=True),
            "ports": st.lists(st.sampled_from([80, 443, 8443]), min_size=1, max_size=2, unique=True),
        },
    )


def profile(name: str, rules: list[dict[str, Any]], **more: Any) -> Profile:
    numbered = [{**rule, "name": f"{name}-{number}"} for number, rule in enumerate(rules)]
    for rule in numbered:
        if rule.get("deny") or rule.get("headers"):
            rule.pop("allow_any", None)
    return Profile.model_validate({"name": name, "sandbox_proxy_rules": numbered, **more})


credentialed = st.fixed_dictionaries({"hosts": st.just(["a.test"]), "headers": st.just(SECRET)})
denying = conditions().map(lambda rule: {**rule, "deny": True})
users = st.lists(st.one_of(conditions(), credentialed, denying), max_size=4).map(
    lambda rules: profile("user", rules)
)
projects = st.lists(st.one_of(conditions(), denying), max_size=3).map(lambda rules: profile("project", rules))
requests = st.builds(
    lambda method, scheme, host, port, path: view(method, scheme, host, port, path, [("Host", host)]),
    st.sampled_from(["GET", "POST", "DELETE"]),
    st.sampled_from(["http", "https"]),
    st.sampled_from(["a.test", "b.test", "x.a.test", "other.example"]),
    st.sampled_from([80, 443, 8443]),
    st.sampled_from(["/", "/one", "/one/two", "/other"]),
)


@given(users, projects, requests)
def test_nothing_is_granted_that_the_person_does_not_grant(
    user: Profile, project: Profile, request: RequestView
) -> None:
    whole, rest = user.to_policy(), narrowed(user, project, "p.toml").to_policy()
    after, before = decide(rest, request), decide(whole, request)
    if isinstance(after, Allow):
        assert isinstance(before, Allow)
        # By the same rule, and so with the same credential.
        assert (after.rule, after.inject) == (before.rule, before.inject)
        # And where the project allows anything, it allows this; in its rules absent ports mean all.
        allowing = [rule.to_rule() for rule in project.sandbox_proxy_rules if not rule.deny]
        assert not allowing or any(
            rule.pattern_for(request.host)
            and (rule.methods is None or request.method in rule.methods)
            and (rule.paths is None or any(glob.matches(request.path) for glob in rule.paths))
            and (rule.ports is None or request.port in rule.ports)
            for rule in allowing
        )
    if isinstance(decide_host(rest, request.host, request.port), Allow):
        assert isinstance(decide_host(whole, request.host, request.port), Allow)
    if isinstance(route(rest, request.host, request.port), Tunnel):
        assert isinstance(route(whole, request.host, request.port), Tunnel)
        # What passes unseen would have been allowed whatever it had been.
        if (request.scheme, request.port) == ("https", 443):
            assert isinstance(after, Allow)


USER = profile(
    "user",
    [{"hosts": ["a.test"], "headers": SECRET}, {"hosts": ["b.test"]}],
    env={"A": "1"},
    limits={"pids": 100, "tmp": "64MiB"},
    filesystem={"workspace": "/w", "workspace_mode": "overlay", "read_only": ["/r"], "hide": [".env"]},
    upstreams={"b.test:80": "127.0.0.1:80"},
)


PLACEHOLDER = {"hosts": ["a.test"], "secrets": ["w.t"], "placeholders": ["header"]}


@pytest.mark.parametrize(
    ("key", "says"),
    [
        ("rule x, headers", {"rules": [{"hosts": ["evil.test"], "headers": SECRET}]}),
        ("rule x, headers", {"rules": [{"hosts": ["a.test"], "headers": {"X-Key": "{{ other.key }}"}}]}),
        (
            "rule x, placeholders",
            {"rules": [{"hosts": ["a.test"], "secrets": ["w.t"], "placeholders": ["header"]}]},
        ),
        ("rule x, exclusive", {"rules": [{"hosts": ["a.test"], "exclusive": False}]}),
        ("rule x, cookies", {"rules": [{"hosts": ["a.test"], "cookies": True}]}),
        ("only", {"rules": [{"hosts": ["a.test"]}], "only": [{"hosts": ["b.test"]}]}),
        ("upstreams.a.test:443", {"upstreams": {"a.test:443": "127.0.0.1:1"}}),
        ("upstreams.b.test:80", {"upstreams": {"b.test:80": "127.0.0.1:81"}}),
        ("upstream_ca", {"upstream_ca": "/ca.pem"}),
        ("env.A", {"env": {"A": "2"}}),
        ("allowed_tools", {"allowed_tools": ["exec", "more"]}),
        ("stray_placeholders", {"stray_placeholders": "leave"}),
        ("network.unknown", {"network": {"unknown": "ask"}}),
        ("proxy", {"proxy": {"auth": "bearer"}}),
        ("privilege.user_namespaces", {"privilege": {"user_namespaces": True}}),
        ("limits.pids", {"limits": {"pids": 101}}),
        ("limits.tmp", {"limits": {"tmp": "65MiB"}}),
        ("limits.best_effort", {"limits": {"best_effort": True}}),
        ("filesystem.read_only", {"filesystem": {"read_only": ["/r/below"]}}),
        ("filesystem.read_write", {"filesystem": {"read_write": ["/r"]}}),
        ("filesystem.workspace", {"filesystem": {"workspace": "/"}}),
        ("filesystem.workspace", {"workspace": "/home"}),
        ("filesystem.workspace_mode", {"filesystem": {"workspace_mode": "rw"}}),
        ("filesystem.size", {"filesystem": {"size": "65MiB"}}),
        ("model", {"model": "openai:x"}),
        ("skill_source", {"skill_source": "/s"}),
    ],
)
def test_what_would_widen_is_an_error_that_names_the_key(key: str, says: dict[str, Any]) -> None:
    rules = [{"name": "x", **rule} for rule in says.pop("rules", [])]
    project = Profile.model_validate({"name": "p", "sandbox_proxy_rules": rules, **says})
    with pytest.raises(NsharnessError) as caught:
        narrowed(USER, project, "p.toml")
    assert str(caught.value).startswith(f"profile p.toml, {key}: ")
    assert "nsharness trust p.toml" in str(caught.value)


def test_what_asks_for_less_is_taken() -> None:
    project = Profile.model_validate(
        {
            "name": "p",
            "sandbox_proxy_rules": [
                {"name": "user-0", "hosts": ["a.test"], "methods": ["GET"]},
                {"name": "none", "hosts": ["b.test"], "deny": True},
            ],
            "env": {"B": "2"},
            "limits": {"pids": 50, "memory": "64MiB"},
            "filesystem": {"workspace": "/w", "workspace_mode": "ro", "hide": ["*.pem"], "read_only": ["/r"]},
            "system_prompt": "less",
        }
    )
    made = narrowed(USER, project, "p.toml")
    assert [(rule.name, rule.deny) for rule in made.sandbox_proxy_rules][:2] == [
        ("user-0", False),
        ("user-1", False),
    ]
    assert made.sandbox_proxy_rules[2].deny
    assert made.sandbox_proxy_rules[0].headers == SECRET
    assert made.env == {"A": "1", "B": "2"}
    assert (made.limits.pids, made.limits.memory, made.limits.tmp) == (50, "64MiB", "64MiB")
    assert (made.files.workspace_mode, made.files.hide) == ("ro", (".env", "*.pem"))
    assert (made.files.workspace, made.files.read_only) == ("/w", ("/r",))
    policy = made.to_policy()
    assert isinstance(decide(policy, view("GET", "https", "a.test", 443, "/", [])), Allow)
    assert decide(policy, view("POST", "https", "a.test", 443, "/", [])).reason == "outside-only"  # type: ignore[union-attr]


def test_a_project_that_builds_on_the_persons_own_rules_repeats_them() -> None:
    """Whoever extends their own profile has its rules in their own, credentials and all."""
    project = Profile.model_validate(
        {"name": "p", "sandbox_proxy_rules": [rule.model_copy() for rule in USER.sandbox_proxy_rules[:1]]}
    )
    made = narrowed(USER, project, "p.toml").to_policy()
    assert isinstance(decide(made, view("GET", "https", "a.test", 443, "/", [])), Allow)
    assert not isinstance(decide(made, view("GET", "https", "b.test", 443, "/", [])), Allow)
