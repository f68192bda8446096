"""Patience: a client that lets the proxy wait for a request is not waited for without end."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator

import pytest

from tests.proxy.rig import Proxy, Sandbox, credential_map, policy, read_answer, read_to_end, rule
from tests.proxy.upstreams import Upstream
from tests.support.tiers import others_slow

SECONDS = 0.2
REQUEST = b"GET http://open.local/ HTTP/1.1\r\nHost: open.local\r\n"


@pytest.fixture(scope="module")
def impatient() -> Iterator[Proxy]:
    changed = f"from nsharness_proxy import patience\npatience.HEAD_SECONDS = {SECONDS}"
    with Proxy(credential_map({}), changed=changed) as process:
        process.event("ready")
        yield process


@pytest.fixture
def served(impatient: Proxy, new_sandbox: Callable[[], Sandbox], upstream: Upstream) -> Sandbox:
    box = new_sandbox()
    rules = [rule("open", "open.local", methods=("GET",)), rule("tunnel", "tunnel.local")]
    impatient.attach(box, policy(*rules, upstreams={"open.local:80": upstream.port}))
    return box


# What a client begins with before it says no more. (In a tunnel that is looked into TLS is begun.)
BEGINNINGS = {
    "nothing": ("explicit", b""),
    "half a head": ("explicit", REQUEST),
    "a tunnel and nothing": ("explicit", b"CONNECT open.local:443 HTTP/1.1\r\nHost: open.local:443\r\n\r\n"),
    "half a hello": (
        "explicit",
        b"CONNECT open.local:443 HTTP/1.1\r\nHost: open.local:443\r\n\r\n\x16\x03\x01\x02\x00\x01",
    ),
    "half a hello that is passed through": (
        "explicit",
        b"CONNECT tunnel.local:443 HTTP/1.1\r\nHost: tunnel.local:443\r\n\r\n\x16\x03\x01\x02\x00\x01",
    ),
    "half of the second head": ("explicit", REQUEST + b"\r\n" + REQUEST),
}


@pytest.mark.parametrize("what", others_slow(BEGINNINGS, ["half of the second head"]))
def test_a_client_that_says_no_more_is_let_go(served: Sandbox, what: str) -> None:
    entrance, data = BEGINNINGS[what]
    with served.connect(entrance) as client:
        client.sendall(data)
        read_to_end(client)  # it times out if the connection is kept
    assert "client-too-slow" in served.audit.read_text()


def test_drops_do_not_make_a_head(served: Sandbox) -> None:
    """Each byte is a sign of life to a clock that only looks for silence."""
    with served.connect() as client:
        client.sendall(REQUEST)
        client.settimeout(SECONDS / 8)
        for _ in range(200):
            try:
                if client.recv(100) == b"":
                    break
            except TimeoutError:
                client.sendall(b"X")
            except ConnectionResetError:
                break
        else:
            pytest.fail("it was kept")


def test_a_connection_between_two_requests_is_kept(served: Sandbox) -> None:
    with served.connect() as client:
        for _ in range(2):
            client.settimeout(10)
            client.sendall(REQUEST + b"\r\n")
            assert read_answer(client).status == 200
            client.settimeout(3 * SECONDS)
            with pytest.raises(socket.timeout):
                client.recv(1)


@pytest.mark.slow
def test_who_waits_for_a_persons_answer_owes_nothing(
    impatient: Proxy, new_sandbox: Callable[[], Sandbox]
) -> None:
    box = new_sandbox()
    impatient.attach(box, policy(unknown="ask", ask_seconds=1))
    with box.connect() as client:
        client.sendall(REQUEST.replace(b"open.local", b"asked.example") + b"\r\n")
        assert read_answer(client).reason == "ask-timeout"
    assert "client-too-slow" not in box.audit.read_text()
