"""Rules 0 to 5, 7 and 10: which requests pass, what becomes of them, and what they get."""

from __future__ import annotations

import contextlib
import socket
import ssl
from pathlib import Path

import pytest

from tests.contract.engine import Served
from tests.contract.naive import Naive
from tests.contract.roads import ROADS, Road, ask, opened
from tests.contract.world import (
    KEYED,
    LISTED,
    OTHER,
    PLACEHOLDER,
    PRIVATE,
    RIGHT,
    TUNNEL,
    UNVERIFIED,
    World,
)
from tests.proxy.h2client import Http2, get
from tests.proxy.rig import read_answer, read_to_end, tunnel
from tests.proxy.upstreams import Upstream

pytestmark = pytest.mark.kernel("userns", "veth")

FORWARD, CONNECT, CONNECT_TLS, CONNECT_H2, PLAIN, TLS, H2 = ROADS


def test_rule_0_the_credential_goes_with_a_proof_and_nowhere_else(
    served: Served, hosts: World, road: Road
) -> None:
    """The line in the audit log has what was proved, and not what it was proved for."""
    before = len(served.audit())
    assert ask(served, road, RIGHT, "/ok/a").status == 200
    assert ask(served, road, OTHER).status == 200
    (request,) = hosts.requests(RIGHT)
    assert request.all("Authorization") == [f"Bearer {hosts.token}"]
    assert hosts.token.encode() not in hosts.received(OTHER)
    (line,) = [line for line in served.audit()[before:] if line["action"] == "inject"]
    assert (line["road"], line["host"], line["rule"]) == (road.kind, RIGHT, "right")
    proof = line["proof"]
    kind = "verified-certificate" if road.tls else "mapped-address"
    assert (proof["upstream"]["kind"], proof["sni"]) == (kind, RIGHT if road.tls else None)


def test_rule_1_a_host_that_is_only_claimed_buys_nothing(served: Served, hosts: World, road: Road) -> None:
    """K1, K2: in both directions, on every road."""
    for leads, named in ((OTHER, RIGHT), (RIGHT, OTHER)):
        answer = ask(served, road, leads, "/ok/a", named=named)
        assert (answer.status, answer.reason) == (421, "misdirected-request")
        assert served.audit()[-1]["reason"] == "misdirected-request"
    assert hosts.requests(OTHER) == hosts.requests(RIGHT) == []


@pytest.mark.parametrize("road", [CONNECT_TLS, CONNECT_H2, TLS, H2], ids=lambda road: road.name)
def test_rule_1_an_sni_that_is_only_claimed_buys_nothing(served: Served, hosts: World, road: Road) -> None:
    for leads, named in ((OTHER, RIGHT), (RIGHT, OTHER)):
        for host in (leads, named):
            assert ask(served, road, leads, "/ok/a", named=host, sni=named).status == 421
    assert hosts.requests(OTHER) == hosts.requests(RIGHT) == []


def test_rule_1_the_same_requests_rob_a_naive_engine(hosts: World, folder: Path) -> None:
    """That the tests above can fail, and one of rule 4 too: a body without length in HTTP/2 is the next
    request for a host that speaks HTTP/1.1."""
    hosts.forget()
    thief = hosts.plain[OTHER]
    with Naive(RIGHT, f"Bearer {hosts.token}").serve("naive", hosts.setup(), folder) as served:
        ask(served, FORWARD, f"127.0.0.1:{thief.port}", named=RIGHT)
        assert hosts.token.encode() in thief.received
        settings = hosts.tls[OTHER].tls
        assert settings is not None
        settings.set_alpn_protocols(["http/1.1"])
        with Upstream(tls=settings) as framed, served.dial("explicit") as client:
            assert tunnel(client, f"127.0.0.1:{framed.port}").status == 200
            context = served.trust()
            context.set_alpn_protocols(["h2"])
            with context.wrap_socket(client, server_hostname=OTHER) as secured:
                Http2(secured).ask(get(OTHER, "/a", method="PUT"), _smuggled(OTHER))
            assert [request.line for request in framed.requests][1:] == ["GET /ok/smuggled HTTP/1.1"]


def _smuggled(host: str) -> bytes:
    return f"GET /ok/smuggled HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()


@pytest.mark.parametrize(
    "host",
    [f"evil-{RIGHT}", f"{RIGHT}.attacker.example", f"a.{RIGHT}", "below.local", "198.51.100.7", "127.0.0.1"],
)
def test_rule_2_names_are_matched_whole_and_the_default_is_no(served: Served, host: str) -> None:
    answer = ask(served, FORWARD, host, "/ok/a")
    assert (answer.status, answer.reason) == (403, "host-not-allowed")
    with pytest.raises(ConnectionRefusedError, match="host-not-allowed"), opened(served, CONNECT, host):
        pass


def test_rule_2_a_pattern_is_for_what_is_below_it(served: Served, hosts: World) -> None:
    assert ask(served, FORWARD, "a.below.local").status == 200
    assert ask(served, FORWARD, "A.Below.LOCAL.", named="a.below.local:80").status == 200
    assert len(hosts.requests("a.below.local")) == 2


@pytest.mark.parametrize("road", [FORWARD, CONNECT_H2, PLAIN, H2], ids=lambda road: road.name)
def test_rule_3_method_and_path_count_and_what_was_checked_is_sent(
    served: Served, hosts: World, road: Road
) -> None:
    for path in ("/", "/ok/../secret", "/ok/%2e%2e/secret", "//ok/a/../../x"):
        assert ask(served, road, RIGHT, path).reason == "path-not-allowed", path
    for path in ("/ok/a%2fb", "/ok/a%5cb", "/ok/a%00"):
        assert ask(served, road, RIGHT, path).status == 400, path
    assert ask(served, road, RIGHT, "/ok/a", method="DELETE").status == 403
    assert ask(served, road, RIGHT, "/ok/a", ("X-HTTP-Method-Override", "DELETE")).status == 403
    assert ask(served, road, RIGHT, "/ok/a", method="TRACE").status in (400, 403)
    assert hosts.requests(RIGHT) == []
    assert ask(served, road, RIGHT, "/x/..//ok/./%61?q=%2e").status == 200
    assert hosts.requests(RIGHT)[0].line == "GET /ok/a?q=%2e HTTP/1.1"


@pytest.mark.parametrize("road", [FORWARD, CONNECT_H2, TLS, H2], ids=lambda road: road.name)
def test_rule_4_on_a_credentialed_host_there_is_one_credential_and_it_is_ours(
    served: Served, hosts: World, road: Road
) -> None:
    """K17, and nothing for proxies or of the connection."""
    own = (
        ("AUTHORIZATION", "mine-1"),
        ("Cookie", "mine-2"),
        ("X-Api-Key", "mine-3"),
        ("Proxy-Authorization", "mine-4"),
        ("Private-Token", "mine-5"),
        ("X-Kept", "kept"),
    )
    assert ask(served, road, RIGHT, "/ok/a", *own).status == 200
    (request,) = hosts.requests(RIGHT)
    assert request.all("Authorization") == [f"Bearer {hosts.token}"]
    assert b"mine-" not in hosts.received(RIGHT)
    assert request.all("X-Kept") == ["kept"]
    assert ask(served, road, RIGHT, "/ok/a?api_key=mine").status == 403


def test_rule_4_a_body_is_a_body_on_every_road(served: Served, hosts: World, road: Road) -> None:
    """K6: its length is not known in advance, and a request is in it."""
    answer = ask(served, road, RIGHT, "/ok/put", method="PUT", body=_smuggled(RIGHT))
    assert (answer.status, answer.body) == (200, _smuggled(RIGHT))
    assert ask(served, road, RIGHT, "/ok/next").status == 200
    first, second = hosts.requests(RIGHT)
    assert (first.line, second.line) == ("PUT /ok/put HTTP/1.1", "GET /ok/next HTTP/1.1")
    assert first.all("Transfer-Encoding") == ["chunked"]


@pytest.mark.parametrize(
    "lines",
    [
        b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"Content-Length: 4\r\nContent-Length: 5\r\n\r\nbody!",
        b"X: a\nY: b\r\n\r\n",
        b"X: a\r\n folded\r\n\r\n",
        b"X : a\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n0x4\r\nbody\r\n0\r\n\r\n",
    ],
)
@pytest.mark.parametrize("road", [FORWARD, CONNECT_TLS, PLAIN], ids=lambda road: road.name)
def test_rule_4_what_could_be_read_in_two_ways_ends_the_connection(
    served: Served, hosts: World, road: Road, lines: bytes
) -> None:
    target = f"http://{RIGHT}/ok/a" if road.kind == "forward" else "/ok/a"
    with opened(served, road, RIGHT) as client:
        client.sendall(f"POST {target} HTTP/1.1\r\nHost: {RIGHT}\r\n".encode() + lines + _smuggled(RIGHT))
        answer = read_to_end(client)
    assert b"\r\n\r\n" not in answer or answer.startswith(b"HTTP/1.1 400 ")
    assert b"/ok/smuggled" not in hosts.received(RIGHT)


@pytest.mark.parametrize("data", [b"\x00\x01\x02", b"SSH-2.0-x\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"])
@pytest.mark.parametrize("road", [CONNECT, CONNECT_TLS, PLAIN, TLS], ids=lambda road: road.name)
def test_rule_4_what_is_no_http_is_closed(served: Served, hosts: World, road: Road, data: bytes) -> None:
    """K5"""
    with opened(served, road, OTHER) as client:
        client.sendall(data)
        assert read_to_end(client) == b"" or b"PRI" in data
    assert hosts.received(OTHER) == b""


def test_rule_5_a_host_that_is_not_verified_or_not_public_gets_nothing(served: Served, hosts: World) -> None:
    """K9. The mapping of one port is none for another."""
    assert ask(served, CONNECT_TLS, UNVERIFIED).reason == "upstream-certificate-rejected"
    assert ask(served, CONNECT_H2, UNVERIFIED).reason == "upstream-certificate-rejected"
    assert ask(served, FORWARD, PRIVATE).reason == "upstream-address-refused"
    assert hosts.received(UNVERIFIED) == b""


def test_rule_5_redirects_are_the_clients_business(served: Served, hosts: World) -> None:
    hosts.plain[RIGHT].handler, kept = (
        lambda _: [b"HTTP/1.1 302 Found\r\nLocation: http://other.local/\r\nContent-Length: 0\r\n\r\n"],
        hosts.plain[RIGHT].handler,
    )
    try:
        assert ask(served, FORWARD, RIGHT, "/ok/a").status == 302
    finally:
        hosts.plain[RIGHT].handler = kept
    assert hosts.requests(OTHER) == []


def test_rule_7_a_placeholder_is_its_secret_where_a_rule_says_so_only(served: Served, hosts: World) -> None:
    """K18"""
    assert ask(served, FORWARD, KEYED, "/", ("X-Key", PLACEHOLDER)).status == 200
    assert hosts.requests(KEYED)[0].all("X-Key") == [hosts.key]
    for road, host in ((FORWARD, RIGHT), (FORWARD, OTHER), (CONNECT_H2, OTHER)):
        answer = ask(served, road, host, "/ok/a", ("X-Key", PLACEHOLDER))
        assert (answer.status, answer.reason) == (403, "placeholder-in-request")
    assert hosts.requests(RIGHT) == hosts.requests(OTHER) == []


def test_rule_10_a_tunnel_is_to_the_host_itself_or_to_nothing(served: Served, hosts: World) -> None:
    """The host's own certificate, which the sandbox's authority did not sign."""
    trust = ssl.create_default_context(cadata=hosts.authority)
    for road in (CONNECT_TLS, TLS):
        with opened(served, road, TUNNEL, trust=trust) as client:
            client.sendall(f"GET /ok/a HTTP/1.1\r\nHost: {TUNNEL}\r\n\r\n".encode())
            assert read_answer(client).status == 200
        seen = len(hosts.requests(TUNNEL))
        with pytest.raises(ssl.SSLError), opened(served, road, TUNNEL, sni=RIGHT, trust=trust):
            pass
        assert len(hosts.requests(TUNNEL)) == seen


def test_rule_10_an_address_is_a_host_like_any_other(served: Served, hosts: World) -> None:
    assert ask(served, PLAIN, LISTED).status == 200
    assert len(hosts.requests(LISTED)) == 1
    with contextlib.suppress(OSError), socket.socket() as _, served.dial("http", "198.19.255.254") as client:
        client.sendall(f"GET /ok/a HTTP/1.1\r\nHost: {RIGHT}\r\n\r\n".encode())
        assert read_to_end(client) == b""
    assert hosts.requests(RIGHT) == []
