"""How often a rule may be used, and how much may be sent by it."""

from __future__ import annotations

from collections.abc import Callable

from nsharness.policy.units import Rate
from tests.proxy.rig import Proxy, Sandbox, policy, read_answer, rule
from tests.proxy.upstreams import Upstream

POST = "POST http://open.local/ HTTP/1.1\r\nHost: open.local\r\n"


def test_a_rate_is_answered_with_when_to_come_again(
    proxy: Proxy, new_sandbox: Callable[[], Sandbox], upstream: Upstream
) -> None:
    """Each sandbox has its own."""
    rules = policy(
        rule("open", "open.local", rate=Rate.parse("2/h")), upstreams={"open.local:80": upstream.port}
    )
    first, second = new_sandbox(), new_sandbox()
    for sandbox in (first, second):
        proxy.attach(sandbox, rules)
    assert [first.get("http://open.local/").status for _ in range(3)] == [200, 200, 429]
    answer = first.get("http://open.local/")
    assert (answer.reason, answer.headers["cache-control"]) == ("rate-exceeded", "no-store")
    assert 1700 < int(answer.headers["retry-after"]) <= 1800
    assert second.get("http://open.local/").status == 200
    assert len(upstream.requests) == 3
    assert proxy.audit("deny", sandbox=first.id)["reason"] == "rate-exceeded"


def test_so_many_requests_and_no_more(proxy: Proxy, sandbox: Sandbox, upstream: Upstream) -> None:
    """Requests that were denied for another reason do not count, nor do those of another rule."""
    rules = policy(
        rule("few", "few.local", methods=["GET"], max_requests=2),
        rule("open", "open.local"),
        upstreams={"few.local:80": upstream.port, "open.local:80": upstream.port},
    )
    proxy.attach(sandbox, rules)
    assert sandbox.get("http://few.local/", method="DELETE").status == 403
    assert [sandbox.get("http://few.local/").status for _ in range(3)] == [200, 200, 429]
    answer = sandbox.get("http://few.local/")
    assert answer.reason == "requests-exhausted"
    assert "retry-after" not in answer.headers
    assert sandbox.get("http://open.local/").status == 200


def test_a_body_that_is_announced_too_long_is_refused_at_once(
    proxy: Proxy, sandbox: Sandbox, upstream: Upstream
) -> None:
    rules = policy(rule("open", "open.local", max_body=10), upstreams={"open.local:80": upstream.port})
    proxy.attach(sandbox, rules)
    with sandbox.connect() as client:
        client.sendall(f"{POST}Content-Length: 11\r\n\r\n".encode())
        answer = read_answer(client)
    assert (answer.status, answer.reason) == (413, "body-too-large")
    assert not upstream.accepted
    assert sandbox.exchange(f"{POST}Content-Length: 10\r\n\r\n0123456789".encode()).status == 200


def test_a_body_that_turns_out_too_long_is_stopped(
    proxy: Proxy, sandbox: Sandbox, upstream: Upstream
) -> None:
    """Of the piece with which it would be nothing is sent, and the host sees that something is missing."""
    rules = policy(rule("open", "open.local", max_body=10), upstreams={"open.local:80": upstream.port})
    proxy.attach(sandbox, rules)
    with sandbox.connect() as client:
        client.sendall(f"{POST}Transfer-Encoding: chunked\r\n\r\n6\r\n123456\r\n".encode())
        client.sendall(b"6\r\nabcdef\r\n0\r\n\r\n")
        answer = read_answer(client)
    assert (answer.status, answer.reason) == (413, "body-too-large")
    assert not upstream.requests
    assert b"abcdef" not in upstream.received
    assert proxy.audit("deny", sandbox=sandbox.id)["reason"] == "body-too-large"
    whole = f"{POST}Transfer-Encoding: chunked\r\n\r\na\r\n0123456789\r\n0\r\n\r\n"
    assert sandbox.exchange(whole.encode()).status == 200
