"""Bounds: what one sandbox does with its connections is no matter of another's."""

from __future__ import annotations

import resource
import socket
import time
from collections.abc import Callable, Iterator

import pytest

from tests.proxy.rig import Proxy, Sandbox, policy, read_answer, read_to_end, rule
from tests.proxy.upstreams import Upstream

MAX_CONNECTIONS = 1024


@pytest.fixture(autouse=True)
def many_descriptors() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 8192), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture
def crowd(proxy: Proxy, new_sandbox: Callable[[], Sandbox]) -> Iterator[tuple[Sandbox, list[socket.socket]]]:
    """As many connections as one listener takes, each with half a request."""
    busy = new_sandbox()
    proxy.attach(busy, policy(rule("open", "open.local")))
    clients = []
    for _ in range(MAX_CONNECTIONS):
        client = busy.connect()
        client.sendall(b"GET http://open.local/ HTTP/1.1\r\n")
        clients.append(client)
    yield busy, clients
    for client in clients:
        client.close()


def test_idle_connections_of_one_sandbox_do_not_slow_anothers(
    proxy: Proxy,
    new_sandbox: Callable[[], Sandbox],
    upstream: Upstream,
    crowd: tuple[Sandbox, list[socket.socket]],
) -> None:
    other = new_sandbox()
    proxy.attach(other, policy(rule("open", "open.local"), upstreams={"open.local:80": upstream.port}))
    took = []
    for _ in range(20):
        start = time.monotonic()
        assert other.get("http://open.local/").status == 200
        took.append(time.monotonic() - start)
    assert sorted(took)[10] < 0.1


def test_connections_beyond_the_bound_are_closed_at_once(
    crowd: tuple[Sandbox, list[socket.socket]],
) -> None:
    busy, clients = crowd
    with busy.connect() as late:
        # It times out if it is kept.
        assert read_to_end(late) == b""
    assert all(client.fileno() >= 0 for client in clients)


LONG = "a" * 60_000
HEADS = {
    "names": f"GET http://open.local/ HTTP/1.1\r\nHost: open.local\r\nX-%d-{LONG}: a\r\n\r\n",
    "values": f"GET http://open.local/ HTTP/1.1\r\nHost: open.local\r\nX-A: %d-{LONG}\r\n\r\n",
    "methods": f"M%d-{LONG} http://open.local/ HTTP/1.1\r\nHost: open.local\r\n\r\n",
    "hosts": f"GET http://open.local/ HTTP/1.1\r\nHost: h%d-{LONG}\r\n\r\n",
    "targets": f"GET http://h%d-{LONG}/ HTTP/1.1\r\nHost: open.local\r\n\r\n",
}


@pytest.mark.parametrize("what", HEADS)
@pytest.mark.parametrize("idle", [False, True], ids=["one-by-one", "idle"])
def test_what_clients_say_is_not_kept(
    proxy: Proxy, sandbox: Sandbox, upstream: Upstream, what: str, idle: bool
) -> None:
    """Neither by what is remembered for all of them, nor by connections that wait for another request; of
    those mitmproxy keeps the last one."""
    more = {"engine": "fast"} if idle else {}
    count, before = 400, 0
    clients = []
    ports = {"open.local:80": upstream.port}
    proxy.attach(sandbox, policy(rule("open", "open.local"), upstreams=ports, **more))
    for number in range(count + 40):
        if number == 40:
            before = proxy.memory()
        client = sandbox.connect()
        client.sendall((HEADS[what] % number).encode())
        read_answer(client)
        if idle:
            clients.append(client)
        else:
            client.close()
    grown = proxy.memory() - before
    for client in clients:
        client.close()
    assert grown < count * len(LONG) // 2
