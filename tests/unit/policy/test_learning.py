"""What is proposed allows everything that was seen, and nothing of another host."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsharness.policy.decide import Allow, decide
from nsharness.policy.learning import MAX_PATHS, Seen, learning_rule, proposed
from nsharness.policy.model import Policy
from nsharness.policy.paths import normalise_path
from nsharness.policy.profile import Profile
from nsharness.policy.request import RequestView

HOSTS = st.sampled_from(["a.example", "b.a.example", "xn--e1afmkfd.example", "203.0.113.9", "2001:db8::1"])
METHODS = st.sampled_from(["GET", "POST", "get", "TRACE", "PROPFIND", "M-SEARCH"])
SEGMENTS = st.one_of(
    st.sampled_from(["v1", "users", "12", "**", "*", "a*b", "", "%25", "..", ".", "a%20b", "deadbeef1"]),
    st.text(max_size=4),
    st.uuids().map(str),
)


def _path(segments: list[str]) -> str:
    try:
        return normalise_path("/" + "/".join(segments))
    except ValueError:
        return "/"


SEEN = st.builds(
    Seen,
    METHODS,
    st.sampled_from(["http", "https"]),
    HOSTS,
    st.sampled_from([80, 443, 8080]),
    st.lists(SEGMENTS, max_size=5).map(_path),
)


def view(seen: Seen, **other: object) -> RequestView:
    values = {name: getattr(seen, name) for name in ("method", "scheme", "host", "port", "path")}
    return RequestView(**{**values, **other})


def policy(seen: list[Seen]) -> Policy:
    rules = proposed(seen, {"learned-a.example"})
    return Profile.model_validate({"name": "p", "sandbox_proxy_rules": rules}).to_policy()


@given(st.lists(SEEN, max_size=30))
def test_all_that_was_seen_is_allowed_and_no_other_host_method_or_port(seen: list[Seen]) -> None:
    made = policy(seen)
    assert all(isinstance(decide(made, view(each)), Allow) for each in seen)
    assert {str(host) for rule in made.rules for host in rule.hosts} == {each.host for each in seen}
    methods = {(each.host, each.method) for each in seen}
    odd = {each.host for each in seen if each.method in ("get", "TRACE")}
    ports = {(each.host, each.port, each.scheme) for each in seen}
    for each in seen:
        for host in ("c.example", "example", f"x.{each.host}" if "." in each.host else "c.example"):
            if not host.rpartition(".")[2].isdigit() and host not in {other.host for other in seen}:
                assert not isinstance(decide(made, view(each, host=host)), Allow)
        if each.host not in odd and (each.host, "DELETE") not in methods:
            assert not isinstance(decide(made, view(each, method="DELETE")), Allow)
        if not any(host == each.host and port not in (80, 443) for host, port, _ in ports):
            assert not isinstance(decide(made, view(each, port=8443)), Allow)


@given(st.lists(SEEN, max_size=40))
def test_there_are_few_paths(seen: list[Seen]) -> None:
    made = proposed(seen)
    targets = {(rule["hosts"][0], *rule.get("ports", ())) for rule in made}
    for target in targets:
        of = [rule for rule in made if (rule["hosts"][0], *rule.get("ports", ())) == target]
        assert len({path for rule in of for path in rule["paths"]}) <= MAX_PATHS
    assert len({rule["name"] for rule in made}) == len(made)
    assert made == proposed(list(reversed(seen)))


def _gets(*paths: str) -> list[str]:
    (rule,) = proposed([Seen("GET", "https", "a.example", 443, path) for path in paths])
    assert rule["methods"] == ["GET"]
    assert "ports" not in rule
    return list(rule["paths"])


@pytest.mark.parametrize(
    ("paths", "wanted"),
    [
        (["/users/1", "/users/22"], ["/users/*"]),
        (["/simple/pip/", "/simple/six/"], ["/simple/pip/", "/simple/six/"]),
        ([f"/simple/p{chr(97 + n)}/" for n in range(12)], ["/simple/*/"]),
        (["/c/0f3a9b21c/diff", "/c/deadbeef/diff"], ["/c/*/diff", "/c/deadbeef/diff"]),
        (["/2024-01-02/5f0c6a9e-1111-2222-3333-444455556666"], ["/*/*"]),
        ([f"/{chr(97 + n)}/{'x/' * n}y" for n in range(12)], ["/**"]),
        ([f"/api/{'x/' * n}y" for n in range(12)], ["/api/**"]),
        (["/"], ["/"]),
        (["/a/**/b*"], ["/a/%2A%2A/b%2A"]),
    ],
)
def test_paths_are_generalised_no_further_than_it_takes(paths: list[str], wanted: list[str]) -> None:
    assert _gets(*paths) == wanted


def test_methods_stay_with_their_paths_and_ports_with_theirs() -> None:
    made = proposed(
        [
            Seen("GET", "https", "a.example", 443, "/read"),
            Seen("POST", "https", "a.example", 443, "/write"),
            Seen("GET", "https", "a.example", 8443, "/read"),
        ]
    )
    facts = [(rule["methods"], rule["paths"], rule.get("ports")) for rule in made]
    assert facts == [
        (["GET"], ["/read"], None),
        (["POST"], ["/write"], None),
        (["GET"], ["/read"], [8443]),
    ]


def test_a_path_that_was_cut_is_allowed_below_its_last_whole_segment() -> None:
    (rule,) = proposed([Seen("GET", "https", "a.example", 443, "/a/bbbb", cut=True)])
    assert rule["paths"] == ["/a/**"]


def test_while_learning_every_host_is_allowed_and_none_has_a_credential() -> None:
    made = Profile.model_validate({"name": "p", "sandbox_proxy_rules": [learning_rule({"learn"})]})
    decision = decide(made.to_policy(), RequestView("GET", "https", "any.example", 443, "/"))
    assert isinstance(decision, Allow)
    assert (decision.inject, decision.credentialed, decision.rule.name) == ((), False, "learn-")
