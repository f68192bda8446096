"""Requests in absolute form at the explicit proxy: what passes, with what, and what is said of the rest."""

from __future__ import annotations

import json

import pytest

from tests.proxy.rig import Proxy, Sandbox, policy, read_answer, rule
from tests.proxy.upstreams import Upstream, ok


@pytest.fixture
def wiki(proxy: Proxy, sandbox: Sandbox, upstream: Upstream) -> Sandbox:
    """GET /snippets/* of wiki.local gets the credential; open.local gets none and may be asked anything."""
    ports = {"wiki.local:80": upstream.port, "open.local:80": upstream.port}
    rules = policy(
        rule("wiki", "wiki.local", headers=["Authorization"], methods=["GET"], paths=["/snippets/*"]),
        rule("open", "open.local"),
        upstreams=ports,
    )
    proxy.attach(sandbox, rules)
    return sandbox


def test_an_allowed_request_carries_the_credential_and_the_hosts_own_name(
    wiki: Sandbox, upstream: Upstream, token: str
) -> None:
    answer = wiki.get("http://wiki.local/snippets/durability?x=1")
    assert (answer.status, answer.body) == (200, b"ok")
    (request,) = upstream.requests
    assert request.line == "GET /snippets/durability?x=1 HTTP/1.1"
    assert request.all("Host") == ["wiki.local"]
    assert request.all("Authorization") == [f"Bearer {token}"]


def test_a_host_without_credential_gets_none_and_keeps_the_clients_own(
    wiki: Sandbox, upstream: Upstream, token: str
) -> None:
    wiki.get("http://open.local/", "Authorization: Basic bWluZQ==")
    assert upstream.requests[0].all("Authorization") == ["Basic bWluZQ=="]
    assert token.encode() not in upstream.received


@pytest.mark.parametrize(
    ("url", "method", "reason", "named"),
    [
        ("http://wiki.local/admin", "GET", "path-not-allowed", "wiki"),
        ("http://wiki.local/snippets/a/b", "GET", "path-not-allowed", "wiki"),
        ("http://wiki.local/snippets/a", "POST", "method-not-allowed", "wiki"),
        ("http://wiki.local:8080/snippets/a", "GET", "port-not-allowed", "wiki"),
        ("http://evil.local/snippets/a", "GET", "host-not-allowed", None),
        ("http://xwiki.local/snippets/a", "GET", "host-not-allowed", None),
        ("http://wiki.local.evil.example/snippets/a", "GET", "host-not-allowed", None),
        ("http://127.0.0.1/snippets/a", "GET", "host-not-allowed", None),
    ],
)
def test_what_no_rule_allows_is_answered_with_why(
    wiki: Sandbox, upstream: Upstream, url: str, method: str, reason: str, named: str | None
) -> None:
    """K2, K4: names are compared whole; the answer says which rule came closest and what would be needed."""
    answer = wiki.get(url, method=method)
    assert (answer.status, answer.reason) == (403, reason)
    body = json.loads(answer.body)
    assert (body["reason"], body["rule"]) == (reason, named)
    assert body["hint"]
    assert not upstream.accepted


@pytest.mark.parametrize(
    "target",
    [
        "/snippets/..%2fadmin",
        "/snippets/%2e%2e%2fx",
        "/snippets/a%00",
        "/snippets/a%5cb",
        "/snippets/%252e",
        "/a#b",
    ],
)
def test_a_path_with_two_readings_is_refused(wiki: Sandbox, upstream: Upstream, target: str) -> None:
    """K7"""
    answer = wiki.get(f"http://wiki.local{target}")
    assert (answer.status, answer.reason) == (400, "malformed-request")
    assert not upstream.accepted


@pytest.mark.parametrize(
    ("target", "sent"),
    [
        ("/snippets/./a", "/snippets/a"),
        ("/x/../snippets//%61", "/snippets/a"),
        ("/snippets/a?..%2f", "/snippets/a?..%2f"),
    ],
)
def test_the_path_that_was_checked_is_the_path_that_is_sent(
    wiki: Sandbox, upstream: Upstream, target: str, sent: str
) -> None:
    """K7"""
    assert wiki.get(f"http://wiki.local{target}").status == 200
    assert upstream.requests[0].line == f"GET {sent} HTTP/1.1"


@pytest.mark.parametrize("name", ["Authorization", "authorization", "AUTHORIZATION"])
def test_the_clients_own_header_never_stands_beside_ours(
    wiki: Sandbox, upstream: Upstream, token: str, name: str
) -> None:
    """K17"""
    wiki.get("http://wiki.local/snippets/a", f"{name}: Bearer other", f"{name}: Bearer third")
    assert upstream.requests[0].all("Authorization") == [f"Bearer {token}"]
    assert b"other" not in upstream.received


def test_headers_of_the_connection_and_for_proxies_do_not_go_on(wiki: Sandbox, upstream: Upstream) -> None:
    wiki.get(
        "http://open.local/",
        "Connection: keep-alive, X-Mine",
        "X-Mine: 1",
        "Keep-Alive: timeout=5",
        "Proxy-Authorization: Basic Zm9v",
        "Proxy-Connection: keep-alive",
        "TE: trailers",
        "Upgrade: h2c",
        "HTTP2-Settings: AAMAAABkAAQAAP__",
        "X-Kept: 1",
    )
    assert [name for name, _ in upstream.requests[0].headers] == ["Host", "X-Kept"]


def test_a_connection_is_used_for_many_requests_on_both_sides(wiki: Sandbox, upstream: Upstream) -> None:
    with wiki.connect() as client:
        for number in range(5):
            url = f"http://wiki.local/snippets/{number}"
            client.sendall(f"GET {url} HTTP/1.1\r\nHost: wiki.local\r\n\r\n".encode())
            assert read_answer(client).status == 200
    assert len(upstream.requests) == 5
    assert upstream.accepted == 1


def test_a_denied_request_does_not_end_the_connection(wiki: Sandbox, upstream: Upstream) -> None:
    with wiki.connect() as client:
        client.sendall(b"GET http://evil.local/ HTTP/1.1\r\nHost: evil.local\r\n\r\n")
        assert read_answer(client).status == 403
        client.sendall(b"GET http://wiki.local/snippets/a HTTP/1.1\r\nHost: wiki.local\r\n\r\n")
        assert read_answer(client).status == 200


def test_requests_of_one_connection_go_each_to_its_own_host(
    proxy: Proxy, sandbox: Sandbox, token: str
) -> None:
    """The connection to the host that has the credential is not taken for another one."""
    with Upstream() as first, Upstream() as second:
        rules = policy(
            rule("wiki", "wiki.local", headers=["Authorization"]),
            rule("open", "open.local"),
            upstreams={"wiki.local:80": first.port, "open.local:80": second.port},
        )
        proxy.attach(sandbox, rules)
        with sandbox.connect() as client:
            for host in ("wiki.local", "open.local", "wiki.local"):
                client.sendall(f"GET http://{host}/ HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
                assert read_answer(client).status == 200
        assert (len(first.requests), len(second.requests)) == (2, 1)
        assert token.encode() not in second.received


def test_a_denied_request_with_a_body_is_answered_before_the_body_has_come(
    wiki: Sandbox, upstream: Upstream
) -> None:
    with wiki.connect() as client:
        client.sendall(
            b"POST http://evil.local/ HTTP/1.1\r\nHost: evil.local\r\nContent-Length: 1000000000\r\n\r\nbegin"
        )
        answer = read_answer(client)
    assert (answer.status, answer.headers["connection"]) == (403, "close")


def test_head_requests_get_a_refusal_without_body(wiki: Sandbox) -> None:
    answer = wiki.get("http://evil.local/", method="HEAD")
    assert (answer.status, answer.body, answer.reason) == (403, b"", "host-not-allowed")
    assert int(answer.headers["content-length"]) > 0


def test_expect_continue_is_answered_only_if_the_request_may_pass(wiki: Sandbox, upstream: Upstream) -> None:
    head = "POST http://{0}/ HTTP/1.1\r\nHost: {0}\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n"
    with wiki.connect() as client:
        client.sendall(head.format("evil.local").encode())
        assert read_answer(client).status == 403
    with wiki.connect() as client:
        client.sendall(head.format("open.local").encode())
        assert client.recv(1 << 16) == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.sendall(b"body")
        assert read_answer(client).status == 200
    assert upstream.requests[0].body == b"body"
    assert upstream.requests[0].all("Expect") == []


def test_a_client_of_http_1_0_gets_the_answer_only(wiki: Sandbox, upstream: Upstream) -> None:
    head = "POST http://{0}/ HTTP/1.0\r\nHost: {0}\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\nbody"
    answer = wiki.everything(head.format("open.local").encode())
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert answer.count(b"HTTP/1.1") == 1
    assert upstream.requests[0].body == b"body"
    assert upstream.requests[0].all("Expect") == []


def test_every_decision_is_one_line_in_the_audit_log_and_one_event(
    wiki: Sandbox, proxy: Proxy, upstream: Upstream, token: str
) -> None:
    wiki.get("http://wiki.local/snippets/a?x=mine")
    wiki.get("http://open.local/")
    wiki.get("http://evil.local/x")
    for action in ("inject", "allow", "deny"):
        proxy.audit(action)
    proxy.audit("response", host="open.local")
    inject, *others = (line for line in wiki.log() if line["action"] != "response")
    assert [line["action"] for line in others] == ["allow", "deny"]
    assert inject["headers"] == ["Authorization"]
    assert inject["proof"]["road"] == {"kind": "forward", "absolute_uri": "http://wiki.local"}
    assert inject["proof"]["upstream"]["kind"] == "mapped-address"
    assert inject["proof"]["authority"] == "wiki.local:80"
    expected = {"sandbox": wiki.id, "road": "forward", "method": "GET", "scheme": "http", "rule": "wiki"}
    assert expected.items() <= inject.items()
    assert (inject["host"], inject["port"], inject["path"]) == ("wiki.local", 80, "/snippets/a")
    ended = next(line for line in wiki.log() if line["action"] == "response")
    assert (ended["request"], ended["status"], ended["received"]) == (inject["request"], 200, 2)
    copies = [{k: v for k, v in e.items() if k != "event"} for e in proxy.events if e["event"] == "audit"]
    assert copies == wiki.log()
    # A query may have a key of the client's in it.
    assert "mine" not in wiki.audit.read_text()


def test_the_injection_is_recorded_before_the_request_leaves(
    proxy: Proxy, sandbox: Sandbox, token: str
) -> None:
    seen: list[list[str]] = []

    def handler(request: object) -> list[bytes]:
        seen.append([line["action"] for line in sandbox.log()])
        return [ok()]

    with Upstream(handler) as upstream:
        rules = policy(
            rule("wiki", "wiki.local", headers=["Authorization"]), upstreams={"wiki.local:80": upstream.port}
        )
        proxy.attach(sandbox, rules)
        assert sandbox.get("http://wiki.local/").status == 200
    assert seen == [["inject"]]


def test_a_rule_whose_credential_is_missing_lets_nothing_pass(
    proxy: Proxy, sandbox: Sandbox, upstream: Upstream
) -> None:
    """K18, K29: rather no request than one that silently goes without."""
    rules = policy(
        rule("other", "other.local", headers=["Authorization"]), upstreams={"other.local:80": upstream.port}
    )
    proxy.attach(sandbox, rules)
    answer = sandbox.get("http://other.local/")
    assert (answer.status, answer.reason) == (502, "credential-missing")
    assert not upstream.accepted


def test_a_credential_does_not_go_over_plain_http_to_a_host_of_the_internet(
    proxy: Proxy, sandbox: Sandbox
) -> None:
    """K9"""
    proxy.attach(sandbox, policy(rule("wiki", "wiki.local", headers=["Authorization"])))
    answer = sandbox.get("http://wiki.local/")
    assert (answer.status, answer.reason) == (403, "plain-http")


def test_a_policy_without_rules_denies_everything(proxy: Proxy, sandbox: Sandbox, upstream: Upstream) -> None:
    """K3"""
    proxy.attach(sandbox, policy(upstreams={"wiki.local:80": upstream.port}))
    assert sandbox.get("http://wiki.local/").status == 403
    assert not upstream.accepted
