"""``nsharness why``: the decision that would be made, and how."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from nsharness.cli import main

PROFILE = """
[[sandbox_proxy_rules]]
name = "wiki"
hosts = ["wiki.local", "*.docs.example"]
methods = ["GET"]
paths = ["/snippets/*"]
headers = { Authorization = "Bearer {{ wiki.token }}" }

[[sandbox_proxy_rules]]
name = "open"
hosts = ["open.example"]

[[sandbox_proxy_rules]]
name = "no-admin"
hosts = ["wiki.local", "*"]
paths = ["/admin/**"]
deny = true
"""


@pytest.fixture(autouse=True)
def _this_process_is_not_touched(monkeypatch: pytest.MonkeyPatch) -> None:
    """``main`` makes its process undumpable and takes its signals; here it is pytest's."""
    monkeypatch.setattr("nsharness.linux.process.make_undumpable", lambda: None)
    monkeypatch.setattr(signal, "signal", lambda *_: None)


@pytest.fixture(autouse=True)
def _in_a_folder_with_a_profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "nsharness.toml").write_text(PROFILE)
    monkeypatch.chdir(tmp_path)


def _why(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    code = main(["why", *arguments])
    return code, capsys.readouterr().out


def _json(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    code, text = _why(capsys, *arguments, "--json")
    told: dict[str, Any] = json.loads(text)
    assert code == (0 if told["allowed"] else 1)
    return told


def test_an_allowed_request_is_told_with_its_rule_and_headers(capsys: pytest.CaptureFixture[str]) -> None:
    code, text = _why(capsys, "get", "https://wiki.local/snippets/%61?q=1#there")
    assert code == 0
    assert text.splitlines() == [
        "GET https://wiki.local:443/snippets/a",
        "  deny rule no-admin: its path does not match",
        "  rule wiki: matches",
        "  rule open: not reached",
        "allowed by rule wiki",
        "  injected: Authorization",
        "  connection: intercepted (the host gets a credential)",
    ]


@pytest.mark.parametrize(
    ("method", "url", "reason", "rule", "failed"),
    [
        ("POST", "https://wiki.local/snippets/a", "method-not-allowed", "wiki", "method"),
        ("GET", "https://wiki.local/other", "path-not-allowed", "wiki", "path"),
        ("GET", "https://wiki.local:8443/snippets/a", "port-not-allowed", "wiki", "port"),
        ("GET", "https://evil.example/", "host-not-allowed", None, "host"),
        ("GET", "http://wiki.local/snippets/a", "plain-http", "wiki", None),
        ("GET", "https://wiki.local/snippets/a?access_token=x", "query-credential", "wiki", None),
    ],
)
def test_a_denied_request_is_told_with_what_failed(
    capsys: pytest.CaptureFixture[str],
    method: str,
    url: str,
    reason: str,
    rule: str | None,
    failed: str | None,
) -> None:
    told = _json(capsys, method, url)
    assert (told["reason"], told["rule"]) == (reason, rule)
    assert told["hint"]
    steps = {step["rule"]: step for step in told["rules"]}
    assert steps["wiki"]["failed"] == failed
    code, text = _why(capsys, method, url)
    assert code == 1
    assert text.splitlines()[-1] == f"denied (403, {reason}): {told['hint']}"


def test_a_rule_that_denies_is_told_first(capsys: pytest.CaptureFixture[str]) -> None:
    told = _json(capsys, "GET", "https://open.example/admin/x")
    assert told["reason"] == "denied-by-rule"
    assert [(s["rule"], s["outcome"]) for s in told["rules"]] == [
        ("no-admin", "matches"),
        ("wiki", "not reached"),
        ("open", "not reached"),
    ]


def test_a_tunnel_is_told_from_an_interception(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    other = tmp_path / "open.toml"
    other.write_text('[[sandbox_proxy_rules]]\nname = "open"\nhosts = ["open.example", "x.github.io"]\n')
    for url, connection, says in (
        ("https://open.example/", "tunnel", "tunnel"),
        ("https://x.github.io/", "intercept", "speak for others"),
        ("http://open.example/", "tunnel", "plain http"),
    ):
        assert _json(capsys, "GET", url, "--profile", str(other))["connection"] == connection
        assert says in _why(capsys, "GET", url, "--profile", str(other))[1]
    # The denial of /admin anywhere makes every connection one to look into.
    assert _json(capsys, "GET", "https://open.example/")["intercepted_for"] == "conditions"


def test_headers_count_and_those_that_would_be_removed_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    url = "https://wiki.local/snippets/a"
    headers = ("--header", "Cookie: hunter2", "--header", "Accept: */*", "--header", "X_Api_Key: hunter2")
    told = _json(capsys, "GET", url, *headers)
    assert told["removed"] == ["cookie", "x_api_key"]
    text = _why(capsys, "GET", url, *headers)[1]
    assert "  removed: cookie, x_api_key" in text
    assert "hunter2" not in text
    override = _json(capsys, "GET", url, "--header", "X-HTTP-Method-Override: DELETE")
    assert override["reason"] == "method-override"
    assert _json(capsys, "GET", url, "--header", "host: wiki.local")["allowed"]
    spoofed = _json(capsys, "GET", "https://open.example/", "--header", "Host: wiki.local")
    assert spoofed["status"] == 421


@pytest.mark.parametrize(
    ("url", "status"),
    [
        ("https://me:hunter2@wiki.local/", 400),
        ("https://wiki.local/a%2Fb", 400),
        ("https://0x7f000001/", 400),
        ("https://wiki.local:0/", 400),
        ("https://wiki.local/a\tb", 400),
    ],
)
def test_what_is_refused_before_any_rule_is_told_so(
    capsys: pytest.CaptureFixture[str], url: str, status: int
) -> None:
    assert _json(capsys, "GET", url)["status"] == status
    code, text = _why(capsys, "GET", url)
    assert code == 1
    assert f"refused with {status}" in text
    assert "hunter2" not in text


@pytest.mark.parametrize(
    "arguments",
    [
        ("GET", "wiki.local/"),
        ("GET", "ftp://wiki.local/"),
        ("GET", "https://"),
        ("GET", "https:///x"),
        ("GET", "https://wiki.local/", "--header", "no colon"),
        ("GET", "https://wiki.local/snippets/a", "--header", "A: b\r\n c"),
        ("GET", "https://wiki.local/", "--profile", "absent.toml"),
    ],
)
def test_what_cannot_be_asked_is_one_line_and_no_verdict(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]
) -> None:
    assert main(["why", *arguments]) == 125
    said = capsys.readouterr()
    assert said.out == ""
    assert len(said.err.splitlines()) == 1


def test_the_demo_can_be_asked_about_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    url = "http://wiki.local/snippets/durability"
    code, text = _why(capsys, "GET", url, "--profile", "stage4")
    assert code == 0
    assert "injected: Authorization" in text
    assert "goes to: a service of the run" in text
    assert (
        _json(capsys, "GET", "http://webhook.local/", "--profile", "stage4")["reason"] == "host-not-allowed"
    )


def test_a_request_that_would_be_asked_about_or_go_without_a_credential_is_told(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    ask = '[network]\nunknown = "ask"\nask_seconds = 9\n'
    every = '[[sandbox_proxy_rules]]\nname = "every"\nhosts = ["wiki.local"]\n'
    (tmp_path / "nsharness.toml").write_text(ask + PROFILE + every)
    code, text = _why(capsys, "GET", "https://unknown.example/x")
    assert (code, "waits for a person's answer" in text, " 9 s" in text) == (1, True, True)
    assert _json(capsys, "GET", "https://unknown.example/x")["asked"] is True
    assert _json(capsys, "GET", "https://unknown.example/admin/x")["asked"] is False
    told = _json(capsys, "PUT", "https://wiki.local/snippets/a")
    assert (told["rule"], told["not_injected"]) == ("every", "credential-method")
    assert "no credential (credential-path)" in _why(capsys, "GET", "https://wiki.local/other")[1]
    assert _json(capsys, "GET", "https://wiki.local/snippets/a")["not_injected"] is None
