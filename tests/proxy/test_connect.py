"""CONNECT: tunnels that are looked into. The client verifies our certificate, and we the host's."""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from nsharness_proxy.ca import CertificateAuthority
from tests.proxy.rig import DEADLINE, Answer, Proxy, Sandbox, policy, read_answer, read_to_end, rule, tunnel
from tests.proxy.tlshost import Authority
from tests.proxy.upstreams import Upstream


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def secure(authority: Authority) -> Iterator[Upstream]:
    """A host with a certificate for secure.local, which offers HTTP/2 first."""
    with Upstream(tls=authority.server("secure.local")) as server:
        yield server


@pytest.fixture
def attached(
    proxy: Proxy, sandbox: Sandbox, secure: Upstream, upstream: Upstream, authority: Authority
) -> Sandbox:
    """secure.local has the credential; other.local leads to the same host; plain.local speaks no TLS."""
    rules = policy(
        rule("secure", "secure.local", headers=["Authorization"]),
        rule("other", "other.local", inspect=True),
        rule("plain", "plain.local", inspect=True),
        upstreams={
            "secure.local:443": secure.port,
            "other.local:443": secure.port,
            "plain.local:80": upstream.port,
            "plain.local:443": upstream.port,
        },
    )
    proxy.attach(sandbox, rules, upstream_ca=authority.pem)
    return sandbox


def inside(
    proxy: Proxy,
    sandbox: Sandbox,
    target: str,
    request: str,
    sni: str | None = None,
    *,
    verify: bool = True,
    patience: float = DEADLINE,
) -> Answer:
    """One request inside TLS inside a tunnel."""
    context = proxy.trust()
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    with sandbox.connect() as client:
        client.settimeout(patience)
        assert tunnel(client, target).status == 200
        name = target.rpartition(":")[0] if sni is None else sni
        with context.wrap_socket(client, server_hostname=name or None) as secured:
            secured.sendall(request.encode())
            return read_answer(secured)


def get(host: str, path: str = "/") -> str:
    return f"GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n"


def test_a_request_in_a_tunnel_gets_the_credential(
    proxy: Proxy, attached: Sandbox, secure: Upstream, token: str
) -> None:
    """The client verifies as strictly as OpenSSL can; the host is asked for by its name."""
    answer = inside(proxy, attached, "secure.local:443", get("secure.local", "/a?b"))
    assert (answer.status, answer.body) == (200, b"ok")
    assert secure.requests[0].line == "GET /a?b HTTP/1.1"
    assert secure.requests[0].all("Authorization") == [f"Bearer {token}"]
    assert secure.requests[0].all("Host") == ["secure.local"]
    # The host would rather have HTTP/2.
    assert (secure.server_names, secure.protocols) == (["secure.local"], ["http/1.1"])
    line = proxy.audit("inject", sandbox=attached.id, road="connect")
    assert line["scheme"] == "https"
    assert line["proof"]["upstream"] == {
        "kind": "verified-certificate",
        "name": "secure.local",
        "address": "127.0.0.1",
    }


def test_a_tunnel_is_used_for_many_requests_on_both_sides(
    proxy: Proxy, attached: Sandbox, secure: Upstream
) -> None:
    with attached.connect() as client:
        tunnel(client, "secure.local:443")
        with proxy.trust().wrap_socket(client, server_hostname="secure.local") as secured:
            for _ in range(3):
                secured.sendall(get("secure.local").encode())
                assert read_answer(secured).status == 200
    assert (len(secure.requests), secure.accepted) == (3, 1)


def test_every_tunnel_has_a_certificate_for_its_host_and_a_key_of_its_own(
    proxy: Proxy, attached: Sandbox
) -> None:
    with attached.connect() as client:
        tunnel(client, "secure.local:443")
        with proxy.trust().wrap_socket(client, server_hostname="secure.local") as secured:
            certificate = secured.getpeercert()
            assert secured.version() == "TLSv1.3"
    assert certificate is not None
    assert certificate["subjectAltName"] == (("DNS", "secure.local"),)


def test_plain_http_in_a_tunnel_is_http_at_that_host_and_port(
    proxy: Proxy, attached: Sandbox, upstream: Upstream
) -> None:
    with attached.connect() as client:
        tunnel(client, "plain.local:80")
        client.sendall(get("plain.local").encode())
        assert read_answer(client).status == 200
    assert len(upstream.requests) == 1


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("evil.local:443", "host-not-allowed"),
        ("secure.local:22", "port-not-allowed"),
        ("secure.local:8443", "port-not-allowed"),
        ("198.51.100.7:443", "host-not-allowed"),
        ("169.254.169.254:80", "host-not-allowed"),
        ("[::1]:443", "host-not-allowed"),
    ],
)
def test_there_is_no_tunnel_to_what_no_rule_names(
    proxy: Proxy, attached: Sandbox, secure: Upstream, target: str, reason: str
) -> None:
    with attached.connect() as client:
        answer = tunnel(client, target)
    assert (answer.status, answer.reason) == (403, reason)
    assert not secure.accepted
    assert proxy.audit("deny", sandbox=attached.id)["method"] == "CONNECT"


@pytest.mark.parametrize(
    ("head", "status"),
    [
        ("CONNECT secure.local:443 HTTP/1.1\r\n", 200),
        ("CONNECT secure.local:443 HTTP/1.0\r\n", 200),
        ("CONNECT secure.local:443 HTTP/1.1\r\nHost: secure.local\r\n", 200),
        ("CONNECT secure.local:443 HTTP/1.1\r\nHost: SECURE.local.:443\r\nContent-Length: 0\r\n", 200),
        ("CONNECT secure.local:443 HTTP/1.1\r\nHost: other.local\r\n", 421),
        ("CONNECT secure.local:443 HTTP/1.1\r\nHost: secure.local:80\r\n", 421),
        ("CONNECT secure.local:443 HTTP/1.1\r\nHost: secure.local\r\nHost: secure.local\r\n", 400),
        ("CONNECT secure.local:443 HTTP/1.1\r\nContent-Length: 5\r\n", 400),
        ("CONNECT secure.local:443 HTTP/1.1\r\nTransfer-Encoding: chunked\r\n", 400),
        ("CONNECT secure.local HTTP/1.1\r\n", 400),
        ("CONNECT user@secure.local:443 HTTP/1.1\r\n", 400),
        ("CONNECT http://secure.local:443/ HTTP/1.1\r\n", 400),
    ],
)
def test_the_target_of_a_tunnel_has_one_reading_and_the_host_header_agrees(
    attached: Sandbox, head: str, status: int
) -> None:
    """Several clients send CONNECT without Host, or with one that has no port: that says nothing else."""
    assert attached.exchange(f"{head}\r\n".encode(), method="CONNECT").status == status


@pytest.mark.parametrize("sni", ["other.local", "evil.local", ""])
def test_an_sni_that_is_not_the_target_is_refused(
    proxy: Proxy, attached: Sandbox, secure: Upstream, token: str, sni: str
) -> None:
    """K2: whether another name or none. A client that verifies sees a certificate for another host."""
    if sni:
        with pytest.raises(ssl.SSLCertVerificationError):
            inside(proxy, attached, "secure.local:443", get("secure.local"), sni)
    answer = inside(proxy, attached, "secure.local:443", get("secure.local"), sni, verify=False)
    assert (answer.status, answer.reason) == (421, "misdirected-request")
    assert not secure.accepted
    assert token.encode() not in secure.received


@pytest.mark.parametrize("host", ["other.local", "secure.local:80", "secure.local:8443"])
def test_a_host_header_that_is_not_the_target_is_refused(
    proxy: Proxy, attached: Sandbox, secure: Upstream, host: str
) -> None:
    """K2: domain fronting, in both directions."""
    answer = inside(proxy, attached, "secure.local:443", get(host))
    assert (answer.status, answer.reason) == (421, "misdirected-request")
    answer = inside(proxy, attached, "other.local:443", get("secure.local"))
    assert (answer.status, answer.reason) == (421, "misdirected-request")
    assert not secure.accepted


def test_a_connect_in_a_tunnel_is_refused(proxy: Proxy, attached: Sandbox, secure: Upstream) -> None:
    """K8"""
    answer = inside(
        proxy,
        attached,
        "secure.local:443",
        "CONNECT other.local:443 HTTP/1.1\r\nHost: other.local:443\r\n\r\n",
    )
    assert (answer.status, answer.reason) == (400, "malformed-request")
    assert not secure.accepted


@pytest.mark.parametrize(
    "data", [b"SSH-2.0-OpenSSH_9.2\r\n", b"\x00\x01\x02\x03", b"\x16\x09\x01", b"{}", b"\x80\x2e\x01\x03\x01"]
)
def test_a_tunnel_for_anything_but_http_is_closed(attached: Sandbox, upstream: Upstream, data: bytes) -> None:
    """K5"""
    with attached.connect() as client:
        tunnel(client, "plain.local:80")
        client.sendall(data)
        assert read_to_end(client) == b""
    assert not upstream.accepted


def test_anything_but_http_inside_tls_is_closed(proxy: Proxy, attached: Sandbox, secure: Upstream) -> None:
    """K5"""
    with attached.connect() as client:
        tunnel(client, "secure.local:443")
        with proxy.trust().wrap_socket(client, server_hostname="secure.local") as secured:
            secured.sendall(b"\x00\x01\x02\x03\r\n")
            with contextlib.suppress(ssl.SSLEOFError, ConnectionError):
                assert secured.recv(100) == b""
    assert not secure.accepted


def test_a_client_that_distrusts_us_is_reported_at_once(proxy: Proxy, attached: Sandbox) -> None:
    with attached.connect() as client:
        tunnel(client, "secure.local:443")
        with pytest.raises(ssl.SSLCertVerificationError):
            ssl.create_default_context(cadata=CertificateAuthority.create().certificate_pem).wrap_socket(
                client, server_hostname="secure.local"
            )
    event = proxy.audit("error", sandbox=attached.id)
    assert (event["reason"], event["host"]) == ("client-distrusts-ca", "secure.local")


def test_a_host_with_the_wrong_name_gets_nothing(proxy: Proxy, attached: Sandbox, secure: Upstream) -> None:
    """other.local is mapped to a server whose certificate is for secure.local."""
    answer = inside(proxy, attached, "other.local:443", get("other.local"))
    assert (answer.status, answer.reason) == (502, "upstream-certificate-rejected")
    assert not secure.received


def test_a_host_whose_authority_is_unknown_gets_nothing(
    proxy: Proxy, sandbox: Sandbox, secure: Upstream, token: str
) -> None:
    rules = policy(
        rule("secure", "secure.local", headers=["Authorization"]), upstreams={"secure.local:443": secure.port}
    )
    proxy.attach(sandbox, rules)
    answer = inside(proxy, sandbox, "secure.local:443", get("secure.local"))
    assert (answer.status, answer.reason) == (502, "upstream-certificate-rejected")
    assert not secure.received
    assert not [event for event in proxy.events if event.get("action") == "inject"]
    assert proxy.audit("error", sandbox=sandbox.id)["reason"] == "upstream-certificate-rejected"


def test_a_host_that_speaks_no_tls_gets_no_request(
    proxy: Proxy, attached: Sandbox, upstream: Upstream
) -> None:
    upstream.greeting = b"SSH-2.0-OpenSSH_9.2\r\n"
    answer = inside(proxy, attached, "plain.local:443", get("plain.local"))
    assert (answer.status, answer.reason) == (502, "upstream-tls-failed")
    assert b"GET" not in upstream.received


@pytest.mark.exhaustive
def test_a_host_that_never_completes_a_handshake_is_given_up(proxy: Proxy, attached: Sandbox) -> None:
    answer = inside(proxy, attached, "plain.local:443", get("plain.local"), patience=30.0)
    assert (answer.status, answer.reason) == (502, "upstream-tls-failed")


def test_certificates_of_clients_trust_nothing_but_this_process(proxy: Proxy) -> None:
    """Two proxies have two authorities."""
    assert CertificateAuthority.create().certificate_pem != proxy.ca
