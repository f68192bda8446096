"""Connections to hosts are kept for the next request of the same sandbox to the same host, for no other."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest

from nsharness.policy.model import Policy
from tests.proxy.rig import Proxy, Sandbox, policy, read_answer, rule
from tests.proxy.upstreams import Request, Upstream, ok
from tests.support import waiting

CLOSED = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok"


def rules(upstream: Upstream, *names: str) -> Policy:
    names = names or ("wiki.local",)
    ports = {f"{name}:80": upstream.port for name in names}
    return policy(
        *(
            rule(name.partition(".")[0], name, headers=["Authorization"] * (name == "wiki.local"))
            for name in names
        ),
        upstreams=ports,
        engine="fast",
    )


def post(name: str) -> bytes:
    return f"POST http://{name}/ HTTP/1.1\r\nHost: {name}\r\nContent-Length: 2\r\n\r\nab".encode()


def test_clients_of_one_sandbox_share_them(proxy: Proxy, sandbox: Sandbox, upstream: Upstream) -> None:
    proxy.attach(sandbox, rules(upstream))
    for _ in range(5):
        assert sandbox.get("http://wiki.local/").status == 200
    assert (len(upstream.requests), upstream.accepted) == (5, 1)
    assert [e["action"] for e in sandbox.log()].count("inject") == 5


def test_nobody_else_does(proxy: Proxy, new_sandbox: Callable[[], Sandbox], upstream: Upstream) -> None:
    """Neither another sandbox, nor requests to another name, though it leads to the same address."""
    one, other = new_sandbox(), new_sandbox()
    for each in (one, other):
        proxy.attach(each, rules(upstream, "wiki.local", "open.local"))
    for each in (one, other):
        for name in ("wiki.local", "open.local"):
            assert each.get(f"http://{name}/").status == 200
    assert upstream.accepted == 4


def test_another_policy_makes_its_own(proxy: Proxy, sandbox: Sandbox, upstream: Upstream) -> None:
    """It may lead the same name elsewhere."""
    with Upstream() as elsewhere:
        proxy.attach(sandbox, rules(upstream))
        assert sandbox.get("http://wiki.local/").status == 200
        message = {"op": "policy", "sandbox": sandbox.id, "policy": rules(elsewhere).to_json(), "tag": "1"}
        proxy.send(message)
        assert proxy.wait_for(lambda event: event.get("reply_to") == "1")["event"] == "policy"
        assert sandbox.get("http://wiki.local/").status == 200
        assert (len(upstream.requests), len(elsewhere.requests)) == (1, 1)


@pytest.mark.parametrize("answer", [CLOSED, ok() + b"EVIL", ok().replace(b"1.1", b"1.0")])
def test_one_that_is_over_or_out_of_step_is_not_used_again(
    proxy: Proxy, sandbox: Sandbox, answer: bytes
) -> None:
    with Upstream(lambda request: [answer]) as upstream:
        proxy.attach(sandbox, rules(upstream))
        for _ in range(3):
            assert sandbox.get("http://wiki.local/").body == b"ok"
        assert upstream.accepted == 3


def hanging_up() -> Callable[[Request], Iterator[bytes]]:
    """Answers the first request of each connection, and ends the connection when it gets another."""
    seen: set[int] = set()

    def answer(request: Request) -> Iterator[bytes]:
        if request.connection in seen:
            raise OSError
        seen.add(request.connection)
        yield ok()

    return answer


def test_what_has_no_effect_is_asked_once_more(proxy: Proxy, sandbox: Sandbox) -> None:
    """On a new connection, and with a proof for that one."""
    with Upstream(hanging_up()) as upstream:
        proxy.attach(sandbox, rules(upstream))
        for _ in range(3):
            assert sandbox.get("http://wiki.local/").status == 200
        assert [r.connection for r in upstream.requests] == [1, 1, 2, 2, 3]
        actions = [event["action"] for event in sandbox.log()]
        assert (actions.count("inject"), actions.count("response")) == (5, 3)


def test_anything_else_is_not(proxy: Proxy, sandbox: Sandbox) -> None:
    with Upstream(hanging_up()) as upstream:
        proxy.attach(sandbox, rules(upstream))
        assert sandbox.exchange(post("wiki.local")).status == 200
        answer = sandbox.exchange(post("wiki.local"))
        assert (answer.status, answer.reason) == (502, "upstream-closed")
        assert len(upstream.requests) == 2


def test_a_first_answer_that_never_comes_is_not_asked_for_again(proxy: Proxy, sandbox: Sandbox) -> None:
    def nothing(request: Request) -> list[bytes]:
        raise OSError

    with Upstream(nothing) as upstream:
        proxy.attach(sandbox, rules(upstream))
        assert sandbox.get("http://wiki.local/").reason == "upstream-closed"
        assert len(upstream.requests) == 1


def test_requests_at_the_same_time_have_one_each(proxy: Proxy, sandbox: Sandbox) -> None:
    both = threading.Barrier(2)

    def together(request: Request) -> Iterator[bytes]:
        both.wait(10)
        yield ok(request.line.encode())

    with Upstream(together) as upstream:
        proxy.attach(sandbox, rules(upstream))
        with sandbox.connect() as one, sandbox.connect() as other:
            for number, client in enumerate((one, other)):
                client.sendall(
                    f"GET http://wiki.local/{number} HTTP/1.1\r\nHost: wiki.local\r\n\r\n".encode()
                )
            for number, client in enumerate((one, other)):
                assert read_answer(client).body == f"GET /{number} HTTP/1.1".encode()
        assert upstream.accepted == 2


def test_they_end_with_their_sandbox(proxy: Proxy, sandbox: Sandbox, upstream: Upstream) -> None:
    proxy.attach(sandbox, rules(upstream))
    assert sandbox.get("http://wiki.local/").status == 200
    assert upstream._open
    proxy.send({"op": "detach", "sandbox": sandbox.id})
    proxy.event("detached", sandbox=sandbox.id)
    waiting.eventually(lambda: not upstream._open)
