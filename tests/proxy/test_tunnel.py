"""Tunnels: TLS to hosts that nothing else is decided about is passed through, once it has named its host."""

from __future__ import annotations

import socket
import ssl
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from nsharness.policy.model import Policy
from nsharness_proxy.hello import MAX_HELLO, HelloError, server_name
from tests.proxy import dnsclient
from tests.proxy.netns import Gateway
from tests.proxy.rig import DEADLINE, Proxy, Sandbox, policy, read_answer, read_to_end, rule, tunnel
from tests.proxy.tlshost import Authority
from tests.proxy.upstreams import Upstream
from tests.support import waiting

GET = b"GET / HTTP/1.1\r\nHost: whatever.example\r\n\r\n"
ALERT = b"\x15\x03\x03\x00\x02\x02\x70"


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def host(authority: Authority) -> Iterator[Upstream]:
    """A host with a certificate for open.local that the proxy would never verify."""
    with Upstream(tls=authority.server("open.local")) as server:
        yield server


@pytest.fixture
def rules(host: Upstream) -> Policy:
    hosts = ("open.local", "wiki.local", "looked.local", "192.0.2.7", "some.local")
    return policy(
        rule("open", "open.local"),
        rule("wiki", "wiki.local", headers=["Authorization"]),
        rule("looked", "looked.local", inspect=True),
        rule("some", "some.local", paths=["/a"]),
        rule("address", "192.0.2.7"),
        upstreams={f"{name}:443": host.port for name in hosts},
    )


@pytest.fixture
def attached(proxy: Proxy, sandbox: Sandbox, rules: Policy) -> Sandbox:
    proxy.attach(sandbox, rules)
    return sandbox


def trusting(authority: Authority) -> ssl.SSLContext:
    return ssl.create_default_context(cadata=authority.pem)


def hello(name: str | None) -> bytes:
    """The first message of a TLS client, as OpenSSL writes it."""
    context = ssl.create_default_context()
    context.check_hostname = False
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    connection = context.wrap_bio(incoming, outgoing, server_hostname=name)
    with pytest.raises(ssl.SSLWantReadError):
        connection.do_handshake()
    return outgoing.read()


def raw_hello(*extensions: tuple[int, bytes]) -> bytes:
    """A first message with just these extensions."""
    body = b"".join(struct.pack("!HH", kind, len(data)) + data for kind, data in extensions)
    head = b"\x03\x03" + bytes(32) + b"\x00" + b"\x00\x02\x13\x01" + b"\x01\x00"
    message = head + struct.pack("!H", len(body)) + body
    handshake = b"\x01" + len(message).to_bytes(3, "big") + message
    return b"\x16\x03\x01" + struct.pack("!H", len(handshake)) + handshake


def names(*each: bytes, kind: int = 0) -> tuple[int, bytes]:
    entries = b"".join(struct.pack("!BH", kind, len(name)) + name for name in each)
    return 0, struct.pack("!H", len(entries)) + entries


class TestServerName:
    def test_it_is_read_whole_and_canonical(self) -> None:
        assert server_name(hello("open.local")) == "open.local"
        assert server_name(raw_hello(names(b"Open.LOCAL."))) == "open.local"

    def test_pieces_are_awaited(self) -> None:
        whole = hello("open.local")
        assert {server_name(whole[:end]) for end in range(3, len(whole))} == {None}

    def test_records_may_cut_it_anywhere(self) -> None:
        handshake = hello("open.local")[5:]
        records = (handshake[i : i + 7] for i in range(0, len(handshake), 7))
        data = b"".join(b"\x16\x03\x01" + struct.pack("!H", len(part)) + part for part in records)
        assert server_name(data) == "open.local"

    @pytest.mark.parametrize(
        ("data", "reason"),
        [
            (hello(None), "sni-missing"),
            (raw_hello(), "sni-missing"),
            (raw_hello(names()), "sni-malformed"),
            (raw_hello(names(b"open.local", b"evil.local")), "sni-malformed"),
            (raw_hello(names(b"open.local"), names(b"evil.local")), "sni-malformed"),
            (raw_hello(names(b"open.local", kind=1)), "sni-malformed"),
            (raw_hello((0, names(b"open.local")[1] + b"x")), "sni-malformed"),
            (raw_hello(names(b"open\0.local")), "sni-malformed"),
            (raw_hello(names(b"\xff.local")), "sni-malformed"),
            (raw_hello(names(b"user@open.local")), "sni-malformed"),
            (b"\x16\x03\x01\x00\x04\x02\x00\x00\x00", "not-tls"),
            (b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x03", "not-tls"),
            (b"\x16\x03\x01\x00\x01\x01\x17\x03\x01\x00\x01\x00", "not-tls"),
            (b"\x16\x03\x01\x40\x00\x01\xff\xff\xff" + bytes(MAX_HELLO), "not-tls"),
        ],
        ids=range(14),  # some of them are made by chance, and all workers must find the same tests
    )
    def test_anything_with_another_reading_is_refused(self, data: bytes, reason: str) -> None:
        with pytest.raises(HelloError, match=reason):
            server_name(data)


def test_a_tunnel_ends_at_the_host_itself(
    proxy: Proxy, attached: Sandbox, host: Upstream, authority: Authority
) -> None:
    """The client sees the host's certificate, and what it says inside is its own affair."""
    with attached.connect() as client:
        assert tunnel(client, "open.local:443").status == 200
        with trusting(authority).wrap_socket(client, server_hostname="open.local") as secured:
            secured.sendall(GET)
            assert read_answer(secured).status == 200
    assert host.server_names == ["open.local"]
    assert host.requests[0].all("Host") == ["whatever.example"]
    end = proxy.audit("response", sandbox=attached.id)
    allowed = proxy.audit("allow", sandbox=attached.id)
    assert (allowed["reason"], allowed["host"], allowed["rule"]) == ("tunnel", "open.local", "open")
    assert allowed["request"] == end["request"]
    assert end["sent"] > len(GET)
    assert end["received"] > 500
    assert [line["action"] for line in attached.log()] == ["allow", "response"]


@pytest.mark.parametrize("target", ["wiki.local", "looked.local", "some.local", "192.0.2.7"])
def test_hosts_with_anything_to_decide_on_are_never_tunnelled(
    proxy: Proxy, attached: Sandbox, host: Upstream, authority: Authority, target: str
) -> None:
    with attached.connect() as client:
        assert tunnel(client, f"{target}:443").status == 200
        with proxy.trust().wrap_socket(client, server_hostname=target) as secured:
            assert secured.getpeercert() is not None
    assert not host.accepted


@pytest.mark.parametrize(("sni", "reason"), [(None, "sni-missing"), ("evil.local", "sni-mismatch")])
def test_a_first_message_that_does_not_name_the_host_is_refused(
    proxy: Proxy, attached: Sandbox, host: Upstream, sni: str | None, reason: str
) -> None:
    """K2: the credential's own name is no way into it either."""
    for name in (sni, "wiki.local" if sni else sni):
        with attached.connect() as client:
            tunnel(client, "open.local:443")
            client.sendall(hello(name))
            assert read_to_end(client) == ALERT
    event = proxy.audit("deny", sandbox=attached.id)
    assert (event["reason"], event["host"], event["rule"]) == (reason, "open.local", "open")
    assert not host.accepted


def test_a_first_message_without_end_is_refused(proxy: Proxy, attached: Sandbox, host: Upstream) -> None:
    with attached.connect() as client:
        tunnel(client, "open.local:443")
        client.sendall(b"\x16\x03\x01\x40\x00\x01\xff\xff\xff" + bytes(MAX_HELLO))
        assert read_to_end(client) == b""
    assert proxy.audit("deny", sandbox=attached.id)["reason"] == "not-tls"
    assert not host.accepted


def test_requests_without_tls_are_decided_on_one_by_one(
    proxy: Proxy, sandbox: Sandbox, upstream: Upstream
) -> None:
    rules = policy(rule("open", "open.local"), upstreams={"open.local:80": upstream.port})
    proxy.attach(sandbox, rules)
    with sandbox.connect() as client:
        assert tunnel(client, "open.local:80").status == 200
        client.sendall(b"GET / HTTP/1.1\r\nHost: evil.local\r\n\r\n")
        assert read_answer(client).status == 421
    assert not upstream.accepted


def test_a_host_that_cannot_be_reached_ends_the_tunnel(proxy: Proxy, sandbox: Sandbox) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    proxy.attach(sandbox, policy(rule("open", "open.local"), upstreams={"open.local:443": port}))
    with sandbox.connect() as client:
        tunnel(client, "open.local:443")
        client.sendall(hello("open.local"))
        assert read_to_end(client) == b""
    assert proxy.audit("error", sandbox=sandbox.id)["reason"] == "upstream-unreachable"


class Raw:
    """A host that takes one connection and leaves it to the test."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]

    def accept(self) -> socket.socket:
        self._listener.settimeout(DEADLINE)
        connection, _ = self._listener.accept()
        connection.settimeout(DEADLINE)
        return connection

    def close(self) -> None:
        self._listener.close()


@pytest.fixture
def raw() -> Iterator[Raw]:
    made = Raw()
    yield made
    made.close()


@pytest.fixture
def ends(proxy: Proxy, sandbox: Sandbox, raw: Raw) -> Iterator[tuple[socket.socket, socket.socket]]:
    """Client and host of a tunnel, after the first message."""
    proxy.attach(sandbox, policy(rule("open", "open.local"), upstreams={"open.local:443": raw.port}))
    first = hello("open.local")
    with sandbox.connect() as client:
        assert tunnel(client, "open.local:443").status == 200
        client.sendall(first)
        with raw.accept() as host:
            assert host.recv(len(first), socket.MSG_WAITALL) == first
            yield client, host


def test_a_direction_that_is_done_leaves_the_other_open(
    proxy: Proxy, ends: tuple[socket.socket, socket.socket]
) -> None:
    client, host = ends
    client.sendall(b"last")
    client.shutdown(socket.SHUT_WR)
    assert read_to_end(host) == b"last"
    host.sendall(b"answer")
    host.close()
    assert read_to_end(client) == b"answer"
    proxy.audit("response")


@pytest.mark.slow
def test_who_does_not_read_is_not_read_for(proxy: Proxy, ends: tuple[socket.socket, socket.socket]) -> None:
    """Back-pressure: little is kept in memory, and the other direction goes on meanwhile."""
    client, host = ends
    before = proxy.memory()
    piece, sent = bytes(1 << 16), [0]

    def push() -> None:
        client.settimeout(1.0)
        try:
            while sent[0] < 256 << 20:
                sent[0] += client.send(piece)
        except TimeoutError:
            return

    pushing = threading.Thread(target=push)
    pushing.start()
    pushing.join()
    assert sent[0] < 64 << 20
    assert proxy.memory() - before < 16 << 20
    host.sendall(b"meanwhile")
    client.settimeout(DEADLINE)
    assert client.recv(9, socket.MSG_WAITALL) == b"meanwhile"


@pytest.mark.parametrize("who", ["client", "host"])
def test_a_reset_ends_both_sides(proxy: Proxy, ends: tuple[socket.socket, socket.socket], who: str) -> None:
    gone, left = ends if who == "client" else ends[::-1]
    gone.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    gone.close()
    assert read_to_end(left) == b""
    proxy.audit("response")


def test_a_detached_sandbox_loses_its_tunnels_at_once(
    proxy: Proxy, sandbox: Sandbox, ends: tuple[socket.socket, socket.socket]
) -> None:
    client, host = ends
    proxy.send({"op": "detach", "sandbox": sandbox.id})
    proxy.event("detached", 2.0, sandbox=sandbox.id)
    assert read_to_end(client) == read_to_end(host) == b""
    assert [line["action"] for line in sandbox.log()] == ["allow", "response"]


@pytest.mark.kernel("userns", "veth")
class TestTransparent:
    @pytest.fixture
    def gateway(self, proxy: Proxy, tmp_path: Path, rules: Policy) -> Iterator[Gateway]:
        with Gateway("tunnels", tmp_path) as made:
            proxy.attach(made.sandbox, rules)
            yield made
            proxy.send({"op": "detach", "sandbox": "tunnels"})
            proxy.event("detached", sandbox="tunnels")
            proxy.events.clear()

    def address(self, gateway: Gateway, name: str) -> str:
        with gateway.new_socket(dnsclient.UDP) as client:
            return dnsclient.ask(client, ("192.0.2.53", 53), name).address

    def test_it_ends_at_the_host_itself(self, gateway: Gateway, host: Upstream, authority: Authority) -> None:
        with (
            gateway.dial(self.address(gateway, "open.local"), 443) as client,
            trusting(authority).wrap_socket(client, server_hostname="open.local") as secured,
        ):
            secured.sendall(GET)
            assert read_answer(secured).status == 200
        waiting.eventually(lambda: [e["action"] for e in gateway.sandbox.log()] == ["allow", "response"])

    @pytest.mark.parametrize("sni", [None, "evil.local", "wiki.local"])
    def test_the_name_must_be_the_one_that_was_dialled(
        self, gateway: Gateway, host: Upstream, sni: str | None
    ) -> None:
        with gateway.dial(self.address(gateway, "open.local"), 443) as client:
            client.sendall(hello(sni))
            assert read_to_end(client) == ALERT
        assert not host.accepted

    def test_tls_on_port_80_is_another_port_than_its_scheme_has(
        self, gateway: Gateway, proxy: Proxy, host: Upstream
    ) -> None:
        with (
            gateway.dial(self.address(gateway, "open.local"), 80) as client,
            proxy.trust().wrap_socket(client, server_hostname="open.local") as secured,
        ):
            secured.sendall(b"GET / HTTP/1.1\r\nHost: open.local:80\r\n\r\n")
            assert read_answer(secured).reason == "port-not-allowed"
        assert not host.accepted
