"""Clients that know of no proxy: they ask a resolver, dial what it says, and speak HTTP or TLS at once.

Everything here runs through a real gateway, where every address leads to the proxy's listeners.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from nsharness.policy.model import Policy
from tests.proxy import dnsclient
from tests.proxy.netns import Gateway
from tests.proxy.rig import Proxy, Sandbox, policy, read_answer, read_to_end, rule
from tests.proxy.tlshost import Authority
from tests.proxy.upstreams import Upstream
from tests.support.waiting import eventually

pytestmark = pytest.mark.kernel("userns", "veth")

LISTED = "203.0.113.9"


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def secure(authority: Authority) -> Iterator[Upstream]:
    with Upstream(tls=authority.server("secure.local")) as server:
        yield server


@pytest.fixture
def rules(upstream: Upstream, secure: Upstream) -> Policy:
    return policy(
        rule("wiki", "wiki.local", headers=["Authorization"]),
        rule("secure", "secure.local", headers=["Authorization"]),
        rule("open", "open.local"),
        rule("listed", LISTED),
        upstreams={
            "wiki.local:80": upstream.port,
            "open.local:80": upstream.port,
            "secure.local:443": secure.port,
            f"{LISTED}:80": upstream.port,
        },
    )


@pytest.fixture
def gateway(proxy: Proxy, tmp_path: Path, authority: Authority, rules: Policy) -> Iterator[Gateway]:
    with Gateway("gateway", tmp_path) as made:
        proxy.attach(made.sandbox, rules, upstream_ca=authority.pem)
        yield made
        proxy.send({"op": "detach", "sandbox": "gateway"})
        proxy.event("detached", sandbox="gateway")
        proxy.events.clear()


def address_of(gateway: Gateway, name: str) -> str:
    """What a client inside learns from whichever resolver it asks."""
    with gateway.new_socket(dnsclient.UDP) as client:
        reply = dnsclient.ask(client, ("192.0.2.53", 53), name)
    return reply.address


def get(host: str) -> bytes:
    return f"GET /a HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()


def test_a_client_that_resolves_and_dials_is_served_by_name(
    gateway: Gateway, proxy: Proxy, upstream: Upstream, token: str
) -> None:
    with gateway.dial(address_of(gateway, "wiki.local"), 80) as client:
        client.sendall(get("wiki.local"))
        assert read_answer(client).status == 200
    (request,) = upstream.requests
    assert (request.line, request.all("Host")) == ("GET /a HTTP/1.1", ["wiki.local"])
    assert request.all("Authorization") == [f"Bearer {token}"]
    assert proxy.audit("inject", sandbox="gateway")["road"] == "transparent"


def test_tls_is_served_with_a_certificate_for_the_name(
    gateway: Gateway, proxy: Proxy, secure: Upstream, token: str
) -> None:
    address = address_of(gateway, "secure.local")
    with (
        gateway.dial(address, 443) as client,
        proxy.trust().wrap_socket(client, server_hostname="secure.local") as secured,
    ):
        secured.sendall(get("secure.local"))
        assert read_answer(secured).status == 200
    assert secure.requests[0].all("Authorization") == [f"Bearer {token}"]
    assert secure.server_names == ["secure.local"]


def test_the_host_header_must_be_the_name_whose_address_was_dialled(
    gateway: Gateway, upstream: Upstream, token: str
) -> None:
    """K1, K2: neither does another name borrow the credential, nor does the credential's name lend it."""
    for dialled, host in (("open.local", "wiki.local"), ("wiki.local", "open.local")):
        with gateway.dial(address_of(gateway, dialled), 80) as client:
            client.sendall(get(host))
            answer = read_answer(client)
        assert (answer.status, answer.reason) == (421, "misdirected-request")
    assert not upstream.accepted


@pytest.mark.parametrize(
    "lines", [b"", b"Host: wiki.local\r\nHost: open.local\r\n", b"Host: x@wiki.local\r\n"]
)
def test_there_is_exactly_one_host_header_too(gateway: Gateway, upstream: Upstream, lines: bytes) -> None:
    """K2"""
    with gateway.dial(address_of(gateway, "wiki.local"), 80) as client:
        client.sendall(b"GET /a HTTP/1.1\r\n" + lines + b"\r\n")
        answer = read_answer(client)
    assert (answer.status, answer.reason) == (400, "malformed-request")
    assert not upstream.accepted


@pytest.mark.parametrize("sni", ["open.local", "evil.local", None])
def test_the_sni_must_be_the_name_whose_address_was_dialled(
    gateway: Gateway, secure: Upstream, proxy: Proxy, sni: str | None
) -> None:
    """K2"""
    blind = proxy.trust()
    blind.check_hostname = False
    blind.verify_mode = ssl.CERT_NONE
    address = address_of(gateway, "secure.local")
    with gateway.dial(address, 443) as client, blind.wrap_socket(client, server_hostname=sni) as secured:
        secured.sendall(get("secure.local"))
        answer = read_answer(secured)
    assert (answer.status, answer.reason) == (421, "misdirected-request")
    assert not secure.accepted


@pytest.mark.parametrize("port", [80, 443])
@pytest.mark.parametrize(
    "address", ["198.51.100.7", "198.18.200.200", "169.254.169.254", "10.127.0.1", "127.0.0.2", "8.8.8.8"]
)
def test_an_address_that_is_neither_issued_nor_listed_is_refused_at_once(
    gateway: Gateway, proxy: Proxy, upstream: Upstream, address: str, port: int
) -> None:
    """Nothing has to be sent for it. (Loopback is the sandbox's own, and nobody listens there.)"""
    if address.startswith("127."):
        with pytest.raises(ConnectionRefusedError):
            gateway.dial(address, port)
        return
    with gateway.dial(address, port) as client:
        assert read_to_end(client) == b""
    assert proxy.audit("deny", sandbox="gateway")["road"] == "transparent"
    assert not upstream.accepted


def test_a_listed_address_is_a_host_like_any_other(gateway: Gateway, upstream: Upstream) -> None:
    with gateway.dial(LISTED, 80) as client:
        client.sendall(get(LISTED))
        assert read_answer(client).status == 200
    with gateway.dial(LISTED, 80) as client:
        client.sendall(get("wiki.local"))
        assert read_answer(client).status == 421
    assert len(upstream.requests) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    "data",
    [
        b"SSH-2.0-x\r\n",
        b"\x00\x00\x00\x2a",
        b"*1\r\n$4\r\nPING\r\n",
        b"\x16\x03\x01\x00\x00",
        b"\x16\x03\x01\x40\x00\x01\xff\xff\xff"
        + bytes(0x3FFC)
        + 5 * (b"\x16\x03\x01\x40\x00" + bytes(0x4000)),
    ],
    ids=["ssh", "binary", "redis", "empty-record", "huge-hello"],
)
def test_raw_bytes_are_closed(gateway: Gateway, upstream: Upstream, data: bytes) -> None:
    """K5: on a name that is allowed, too."""
    with gateway.dial(address_of(gateway, "open.local"), 80) as client:
        client.sendall(data)
        assert read_to_end(client) == b""
    assert not upstream.accepted


def test_an_absolute_uri_or_connect_to_another_host_is_refused(gateway: Gateway, upstream: Upstream) -> None:
    """K2"""
    for head in (
        b"GET http://wiki.local/ HTTP/1.1\r\nHost: open.local",
        b"CONNECT wiki.local:80 HTTP/1.1\r\nHost: x",
    ):
        with gateway.dial(address_of(gateway, "open.local"), 80) as client:
            client.sendall(head + b"\r\n\r\n")
            assert read_answer(client).status in (400, 421)
    assert not upstream.accepted


def test_the_port_that_was_dialled_counts(gateway: Gateway, upstream: Upstream) -> None:
    """Plain HTTP on 443 and TLS on 80 are other ports than their schemes have."""
    with gateway.dial(address_of(gateway, "open.local"), 443) as client:
        client.sendall(get("open.local:443"))
        assert read_answer(client).reason == "port-not-allowed"
    assert not upstream.accepted


def test_the_explicit_proxy_works_from_inside_too(gateway: Gateway, upstream: Upstream) -> None:
    with gateway.dial("10.127.0.1", 3128) as client:
        client.sendall(b"GET http://wiki.local/ HTTP/1.1\r\nHost: wiki.local\r\n\r\n")
        assert read_answer(client).status == 200
    assert len(upstream.requests) == 1


def test_names_keep_their_addresses_over_a_restart(gateway: Gateway, proxy: Proxy, rules: Policy) -> None:
    """Clients remember what they resolved."""
    before = [address_of(gateway, name) for name in ("secure.local", "open.local", "wiki.local")]
    assert len(set(before)) == 3
    proxy.send({"op": "detach", "sandbox": "gateway"})
    proxy.event("detached", sandbox="gateway")
    proxy.events.clear()
    proxy.attach(gateway.sandbox, rules)
    after = [address_of(gateway, name) for name in ("wiki.local", "open.local", "secure.local")]
    assert after[::-1] == before


def test_transparent_entrances_are_closed_where_a_bearer_is_needed(
    proxy: Proxy, tmp_path: Path, upstream: Upstream
) -> None:
    bearer = "bearer-0123456789"
    rules = policy(
        rule("open", "open.local"), upstreams={"open.local:80": upstream.port}, proxy_auth="bearer"
    )
    with Gateway("gateway", tmp_path) as gateway:
        proxy.attach(gateway.sandbox, rules, bearer=bearer)
        with gateway.dial(address_of(gateway, "open.local"), 80) as client:
            client.sendall(get("open.local"))
            assert read_to_end(client) == b""
        assert proxy.audit("deny", sandbox="gateway")["reason"] == "transparent-closed"
        proxy.send({"op": "detach", "sandbox": "gateway"})
        proxy.event("detached", sandbox="gateway")
        proxy.events.clear()
    assert not upstream.accepted


def test_sandboxes_with_the_same_addresses_never_meet(
    gateway: Gateway, proxy: Proxy, tmp_path: Path, upstream: Upstream, new_sandbox: object
) -> None:
    """K30: the first address of this sandbox is another name in that one."""
    with Gateway("other", tmp_path) as other, Upstream() as elsewhere:
        rules = policy(rule("first", "first.local"), upstreams={"first.local:80": elsewhere.port})
        proxy.attach(other.sandbox, rules)
        address = address_of(other, "first.local")
        assert address == address_of(gateway, "wiki.local")
        with other.dial(address, 80) as client:
            client.sendall(get("wiki.local"))
            assert read_answer(client).status == 421
        with other.dial(address, 80) as client:
            client.sendall(get("first.local"))
            assert read_answer(client).status == 200
        assert elsewhere.requests[0].all("Authorization") == []
        proxy.send({"op": "detach", "sandbox": "other"})
        proxy.event("detached", sandbox="other")
    assert not upstream.accepted


def test_a_detached_sandbox_loses_its_connections_and_its_sockets(proxy: Proxy, sandbox: Sandbox) -> None:
    proxy.attach(sandbox, policy(rule("open", "open.local")))
    with sandbox.connect() as client:
        client.sendall(b"GET http://open.local/ HTTP/1.1\r\n")
        proxy.send({"op": "detach", "sandbox": sandbox.id})
        proxy.event("detached", sandbox=sandbox.id)
        assert read_to_end(client) == b""
    address = sandbox.address("explicit")
    sandbox.close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address)


def test_names_beyond_the_profiles_keep_their_addresses_too(
    gateway: Gateway, proxy: Proxy, upstream: Upstream
) -> None:
    """Those that match a wildcard get addresses as they are asked for; the supervisor is told, and tells."""
    rules = policy(rule("any", "*.example.com"))
    proxy.send({"op": "detach", "sandbox": "gateway"})
    proxy.event("detached", sandbox="gateway")
    proxy.events.clear()
    proxy.attach(gateway.sandbox, rules)
    asked = ["b.example.com", "a.example.com"]
    before = {name: address_of(gateway, name) for name in asked}
    eventually(lambda: proxy.names("gateway") == asked)
    proxy.send({"op": "detach", "sandbox": "gateway"})
    proxy.event("detached", sandbox="gateway")
    proxy.events.clear()
    proxy.attach(gateway.sandbox, rules, names={"names": asked})
    assert {name: address_of(gateway, name) for name in reversed(asked)} == before
