"""The profile of a run without one says what an empty ``Profile`` says, without loading what that needs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nsharness.credentials.build import bindings_of
from nsharness.credentials.map import CredentialMap
from nsharness.credentials.nothing import empty_map
from nsharness.credentials.place import secrets_folder
from nsharness.credentials.store import SecretStore
from nsharness.policy.model import Policy
from nsharness.policy.plain import PlainFiles, PlainProfile, written_out
from nsharness.policy.profile import Profile

FILES = PlainFiles("/work", ("/a", "/b\n"), ("/c", "/c"))


@pytest.mark.parametrize("profile", [PlainProfile("exec"), PlainProfile("exec", FILES)])
def test_every_answer_is_that_of_the_profile_written_out(profile: PlainProfile) -> None:
    written = written_out(profile)
    names = ("name", "upstream_ca", "sandbox_proxy_rules", "proxy_auth", "unknown", "served_by")
    for name in (*names, "user_namespaces"):
        assert getattr(profile, name) == getattr(written, name), name
    for name in ("workspace", "workspace_mode", "read_only", "read_write", "hide", "protect"):
        assert getattr(profile.files, name) == getattr(written.files, name), name
    assert profile.limit_values() == written.limit_values()
    assert profile.environment(str) == written.environment(str) == {}
    assert profile.policy_json({}) == written.policy_json({})
    assert bindings_of(profile) == bindings_of(written) == ()


def test_its_policy_is_one_and_denies_everything() -> None:
    policy = Policy.from_json(PlainProfile("exec").policy_json({}))
    assert policy == Profile(name="exec").to_policy()
    assert policy.rules == ()


def test_upstreams_are_added_as_to_any_other() -> None:
    upstreams = {"wiki.local": "127.0.0.1:8080"}
    made = PlainProfile("exec").policy_json(upstreams)
    assert made == Profile(name="exec").policy_json(upstreams)
    assert made["upstreams"] == {"wiki.local:80": ["127.0.0.1", 8080]}


def test_one_that_is_written_out_stays_what_it_is() -> None:
    profile = Profile(name="other")
    assert written_out(profile) is profile
    assert written_out(PlainProfile("exec")).model_fields_set == {"name"}


def test_a_map_of_nothing_is_an_empty_map_of_its_own() -> None:
    content = empty_map()
    assert CredentialMap.from_bytes(content) == CredentialMap({})
    assert json.loads(content).keys() == json.loads(CredentialMap({}).to_bytes()).keys()
    assert empty_map() != content


def test_the_folder_of_secrets_is_the_stores() -> None:
    for environ in ({}, {"XDG_DATA_HOME": "/data"}, {"XDG_DATA_HOME": "data"}):
        home = Path("/home/somebody")
        assert secrets_folder(home, environ) == SecretStore.default(home, environ).root
