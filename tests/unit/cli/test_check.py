"""``nsharness check``: what is wrong with a profile in one line, or what it comes to."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from nsharness.cli import main
from nsharness.plan.limits import LimitFacts
from nsharness.policy.load import load_profile
from nsharness.policy.model import Policy
from nsharness_proxy.ca import CertificateAuthority

PROFILE = """
name = "demo"
upstream_ca = "ca.pem"
env = { KEY = "{{ placeholder api.key }}", LANG = "C" }

[[sandbox_proxy_rules]]
name = "api"
hosts = ["api.example"]
headers = { X-Key = "{{ other.key }}" }
secrets = ["api.key"]
placeholders = ["header", "basic"]
rate = "10/s"
max_requests = 100
max_body = "10MB"

[[sandbox_proxy_rules]]
name = "open"
hosts = ["open.example", "*.more.example", "api.example", "x.fastly.net", "192.0.2.7"]

[[sandbox_proxy_rules]]
name = "no"
hosts = ["*.bad.more.example"]
deny = true

[upstreams]
"api.example:443" = "127.0.0.1:8443"

[proxy]
auth = "bearer"
"""
CERTIFICATE = CertificateAuthority.create().certificate_pem


@pytest.fixture(autouse=True)
def _this_process_is_not_touched(monkeypatch: pytest.MonkeyPatch) -> None:
    """``main`` makes its process undumpable and takes its signals; here it is pytest's."""
    monkeypatch.setattr("nsharness.linux.process.make_undumpable", lambda: None)
    monkeypatch.setattr(signal, "signal", lambda *_: None)


def test_limits_are_shown_with_what_enforces_them(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = PROFILE + '\n[limits]\nmemory = "1GiB"\nwall = 90\n'
    (folder / "nsharness.toml").write_text(text)
    here = LimitFacts(unified="/cg", unified_controllers=frozenset({"memory"}))
    monkeypatch.setattr("nsharness.supervisor.limits.facts", lambda: here)
    assert main(["check"]) == 0
    shown = capsys.readouterr().out
    assert "limit      memory 1GiB (cgroup2)\n" in shown
    assert "limit      wall 90 s (supervisor)\n" in shown
    monkeypatch.setattr("nsharness.supervisor.limits.facts", LimitFacts)
    assert main(["check"]) == 0
    assert "limits: cannot enforce limits.memory = 1GiB: " in capsys.readouterr().out
    assert main(["check", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["limits"]["memory"] == 1 << 30


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "nsharness.toml").write_text(PROFILE)
    (tmp_path / "ca.pem").write_text(CERTIFICATE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_valid_profile_is_shown_with_its_tunnels(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:3] == [
        "profile demo (nsharness.toml): valid",
        "proxy: identifies by bearer",
        "rule no denies *.bad.more.example",
    ]
    assert "rule api allows api.example" in lines
    for line in (
        "  injects: X-Key",
        "  placeholders: api.key in basic, header",
        "  rate: 10/s",
        "  max_requests: 100",
        "  max_body: 10MB",
        "upstream api.example:443: 127.0.0.1:8443",
        f"upstream_ca: {folder / 'ca.pem'}",
        "env KEY: a placeholder",
        "env LANG: set",
        "placeholders elsewhere: denied",
    ):
        assert line in lines
    (shown,) = [line for line in lines if line.startswith("rule open")]
    marked = [host for host in shown.removeprefix("rule open allows ").split(", ") if "tunnel" in host]
    assert marked == [f"{host} (tunnel: not looked into)" for host in ("open.example", "*.more.example")]


def test_the_json_form_is_the_policy_and_more(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(folder / "nsharness.toml"), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert [rule.pop("tunnels") for rule in shown["rules"]] == [[], ["open.example", "*.more.example"], []]
    assert shown["upstreams"] == {"api.example:443": "127.0.0.1:8443"}
    policy = load_profile(folder / "nsharness.toml").to_policy()
    assert (
        Policy.from_json({**{k: shown[k] for k in policy.to_json()}, "upstreams": {}}).rules == policy.rules
    )
    assert shown["environment"] == ["KEY", "LANG"]


def test_a_profile_of_nothing_denies_everything_and_says_so(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """K3."""
    (folder / "empty.toml").write_text("")
    assert main(["check", "empty.toml"]) == 0
    assert "no rules: everything is denied" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('rate = "10/s"', 'rate = "often"', "rate"),
        ('rate = "10/s"', 'raet = "10/s"', "did you mean rate?"),
        ('auth = "bearer"', 'auht = "bearer"', "did you mean auth?"),
        ('"ca.pem"', '"absent.pem"', "No such file"),
        ('"ca.pem"', '"nsharness.toml"', "no certificate"),
        ('secrets = ["api.key"]', 'secrets = ["api.other"]', "api.key"),
    ],
)
def test_a_wrong_profile_is_one_line(
    folder: Path, capsys: pytest.CaptureFixture[str], old: str, new: str, says: str
) -> None:
    assert old in PROFILE
    (folder / "nsharness.toml").write_text(PROFILE.replace(old, new))
    assert main(["check"]) == 125
    said = capsys.readouterr()
    assert said.out == ""
    assert says in said.err
    assert len(said.err.splitlines()) == 1


def test_the_demo_is_there_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "stage4"]) == 0
    text = capsys.readouterr().out
    assert "rule wiki allows wiki.local\n" in text
    assert "upstream wiki.local:80: a service of the run" in text


def test_where_a_rule_is_from_and_what_a_preset_adds(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "base.toml").write_text('[[sandbox_proxy_rules]]\nname = "base"\nhosts = ["base.example"]\n')
    (folder / "near.toml").write_text('extends = "./base.toml"\n')
    assert main(["check", "near.toml", "--preset", "claude-code"]) == 0
    lines = capsys.readouterr().out.splitlines()
    base = f"rule base allows base.example (tunnel: not looked into) ({folder / 'base.toml'})"
    assert base in lines
    assert any("api.anthropic.com" in line for line in lines)
    assert main(["why", "GET", "https://api.anthropic.com/v1/models", "--preset", "claude-code"]) == 0
    assert main(["why", "GET", "https://base.example/", "--profile", "near.toml"]) == 0
    assert main(["plan", "--profile", "near.toml", "--preset", "claude-code", "--json"]) == 0
    assert "ANTHROPIC_API_KEY" in capsys.readouterr().out


def test_a_projects_profile_is_shown_as_what_it_leaves_of_ones_own(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    own = tmp_path / "config" / "nsharness" / "user.toml"
    own.parent.mkdir(parents=True)
    own.write_text('[[sandbox_proxy_rules]]\nname = "mine"\nhosts = ["a.example", "b.example"]\n')
    (folder / "nsharness.toml").write_text(
        'name = "project"\n[[only]]\nhosts = ["b.example"]\nmethods = ["GET"]\n'
    )
    assert main(["check"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"profile project ({own}, of which nsharness.toml takes away): valid"
    assert "only b.example is left of that: GET" in lines
    assert main(["why", "GET", "https://b.example/"]) == 0
    assert main(["why", "GET", "https://a.example/"]) == 1
    assert "outside-only" in capsys.readouterr().out
    (folder / "nsharness.toml").unlink()
    assert main(["check"]) == 0
    assert f"profile user ({own}): valid" in capsys.readouterr().out
