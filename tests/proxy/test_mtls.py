"""Identity by certificate: a listener of its own, which serves nobody without the sandbox's."""

from __future__ import annotations

import contextlib
import datetime as dt
import socket
import ssl
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from nsharness.linux import fds
from nsharness_proxy.ca import PROXY_ADDRESS, CertificateAuthority
from tests.proxy.rig import Answer, Proxy, Sandbox, policy, read_answer, rule, tunnel
from tests.proxy.test_tunnel import hello
from tests.proxy.upstreams import Upstream

REQUEST = b"GET http://open.local/ HTTP/1.1\r\nHost: open.local\r\n\r\n"
Pair = tuple[str, str]


@dataclass
class Identified:
    """A sandbox that has a certificate, and its authority."""

    sandbox: Sandbox
    authority: CertificateAuthority
    client: Pair
    folder: Path

    def settings(self, client: Pair | None) -> ssl.SSLContext:
        """A client's TLS, with a certificate or without."""
        context = ssl.create_default_context(cadata=self.authority.certificate_pem)
        if client is not None:
            path = self.folder / "client.pem"
            path.write_text("".join(client))
            context.load_cert_chain(path)
        return context

    @contextlib.contextmanager
    def entered(self, client: Pair | None) -> Iterator[ssl.SSLSocket]:
        with self.sandbox.connect() as raw:
            settings = self.settings(client)
            with settings.wrap_socket(raw, server_hostname=PROXY_ADDRESS) as secured:
                yield secured

    def ask(self, client: Pair | None) -> Answer:
        """One request. ``OSError`` where the certificate is not taken."""
        with self.entered(client) as secured:
            secured.sendall(REQUEST)
            try:
                return read_answer(secured)
            except ConnectionError as error:
                raise OSError("the connection was closed") from error


@pytest.fixture
def new_identified(
    proxy: Proxy, new_sandbox: Callable[[], Sandbox], upstream: Upstream, tmp_path: Path
) -> Callable[[], Identified]:
    def make() -> Identified:
        sandbox = new_sandbox()
        rules = policy(
            rule("open", "open.local"),
            rule("seen", "seen.local", inspect=True),
            upstreams={"open.local:80": upstream.port, "open.local:443": upstream.port, "seen.local:80": 1},
            proxy_auth="mtls",
        )
        key = fds.memfd("key")
        proxy.send({"op": "authority", "name": sandbox.id, "policy": rules.to_json()}, (key,))
        certificate, private = proxy.event("ca", name=sandbox.id)["client"]
        made = CertificateAuthority.from_pem(fds.read_all(key))
        fds.close_all([key])
        proxy.attach(sandbox, rules, authority=sandbox.id)
        return Identified(sandbox, made, (certificate, private), tmp_path)

    return make


@pytest.fixture
def identified(new_identified: Callable[[], Identified]) -> Identified:
    return new_identified()


def test_with_its_certificate_it_is_served(identified: Identified, upstream: Upstream) -> None:
    """Also through CONNECT, and TLS inside that."""
    assert identified.ask(identified.client).status == 200
    with identified.entered(identified.client) as secured:
        assert tunnel(secured, "open.local:80").status == 200
        secured.sendall(b"GET / HTTP/1.1\r\nHost: open.local\r\n\r\n")
        assert read_answer(secured).status == 200
    inner = ssl.create_default_context(cadata=identified.authority.certificate_pem)
    with identified.entered(identified.client) as secured:
        assert tunnel(secured, "seen.local:443").status == 200
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        inside = inner.wrap_bio(incoming, outgoing, server_hostname="seen.local")
        while True:
            try:
                inside.do_handshake()
                break
            except ssl.SSLWantReadError:
                secured.sendall(outgoing.read())
                incoming.write(secured.recv(1 << 16))
        assert inside.getpeercert()
    assert len(upstream.requests) == 2


def test_a_tunnel_inside_it_ends_when_its_host_does(identified: Identified, proxy: Proxy) -> None:
    """TLS has no half of a connection to close."""
    with identified.entered(identified.client) as secured:
        assert tunnel(secured, "open.local:443").status == 200
        secured.sendall(hello("open.local"))
        proxy.audit("allow", sandbox=identified.sandbox.id)
    with contextlib.suppress(AssertionError):
        proxy.audit("response", sandbox=identified.sandbox.id)
    assert identified.ask(identified.client).status == 200


@pytest.mark.parametrize("what", ["none", "another sandbox's", "expired", "a host's", "another name"])
def test_any_other_certificate_is_refused(
    proxy: Proxy,
    identified: Identified,
    new_identified: Callable[[], Identified],
    upstream: Upstream,
    what: str,
) -> None:
    """K30. All but the third could be taken for ours by somebody who checks less."""
    own = identified.authority
    if what == "a host's":
        leaf = own.leaf("open.local")
        client: Pair | None = own_pair(leaf)
    else:
        made: dict[str, Callable[[], Pair | None]] = {
            "none": lambda: None,
            "another sandbox's": lambda: new_identified().client,
            "expired": lambda: own.client(identified.sandbox.id, dt.timedelta(seconds=-1)),
            "another name": lambda: own.client("another"),
        }
        client = made[what]()
    with pytest.raises(OSError):  # noqa: PT011 - which one depends on when the alert comes
        identified.ask(client)
    assert not upstream.accepted
    reason = proxy.audit("deny", sandbox=identified.sandbox.id)["reason"]
    assert reason == "client-certificate-refused"
    assert identified.ask(identified.client).status == 200


def own_pair(leaf: object) -> Pair:
    from cryptography.hazmat.primitives import serialization

    from nsharness_proxy.ca import Leaf

    assert isinstance(leaf, Leaf)
    key = leaf.key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return leaf.certificate.public_bytes(serialization.Encoding.PEM).decode(), key.decode()


def test_without_tls_there_is_nothing(identified: Identified, upstream: Upstream) -> None:
    assert identified.sandbox.everything(REQUEST) == b""
    assert not upstream.accepted


@pytest.mark.parametrize("entrance", ["http", "https"])
def test_transparent_ways_are_closed(proxy: Proxy, identified: Identified, entrance: str) -> None:
    request = b"GET / HTTP/1.1\r\nHost: open.local\r\n\r\n" if entrance == "http" else hello("open.local")
    assert identified.sandbox.everything(request, entrance) == b""
    assert proxy.audit("deny", sandbox=identified.sandbox.id)["reason"] == "transparent-closed"


def test_a_certificate_is_no_bearer_and_no_use_elsewhere(
    proxy: Proxy, identified: Identified, new_sandbox: Callable[[], Sandbox], upstream: Upstream
) -> None:
    """K30: at the listener of a sandbox that has a bearer, TLS with a certificate is nothing at all."""
    other = new_sandbox()
    rules = policy(rule("o", "open.local"), upstreams={"open.local:80": upstream.port}, proxy_auth="bearer")
    proxy.attach(other, rules, bearer="bearer-0123456789")
    with other.connect() as raw, pytest.raises(OSError):  # noqa: PT011 - closed or no TLS
        identified.settings(identified.client).wrap_socket(raw, server_hostname=PROXY_ADDRESS)
    assert other.get("http://open.local/").status == 407
    assert not upstream.accepted


def test_those_who_only_connect_are_counted_and_ended_with_the_sandbox(
    proxy: Proxy, identified: Identified
) -> None:
    clients: list[socket.socket] = [identified.sandbox.connect() for _ in range(5)]
    assert identified.ask(identified.client).status == 200
    proxy.send({"op": "detach", "sandbox": identified.sandbox.id})
    for client in clients:
        with client, contextlib.suppress(ConnectionResetError):
            assert client.recv(1) == b""
