"""Bounds: what one sandbox does with its connections is no matter of another's."""

from __future__ import annotations

import resource
import socket
import time
from collections.abc import Callable, Iterator

import pytest

from tests.proxy.rig import Proxy, Sandbox, policy, read_to_end, rule
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
