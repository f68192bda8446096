"""Rules 6, 8 and 11: what comes back has no secret in it, is not kept, and teaches where it denies."""

from __future__ import annotations

import json

import pytest

from tests.contract.engine import Served
from tests.contract.roads import ROADS, Road, ask, everything, opened
from tests.contract.world import OTHER, RIGHT, World
from tests.proxy import dnsclient
from tests.proxy.h2client import Http2, get
from tests.proxy.rig import read_to_end

pytestmark = pytest.mark.kernel("userns", "veth")

FORWARD, CONNECT, CONNECT_TLS, CONNECT_H2, PLAIN, TLS, H2 = ROADS
UPGRADE = (
    "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    "Sec-WebSocket-Version: 13\r\n\r\n"
)


@pytest.mark.parametrize("path", ["/ok/echo", "/ok/hints", "/ok/malformed"])
def test_rule_6_nothing_of_an_answer_has_the_secret(
    served: Served, hosts: World, road: Road, path: str
) -> None:
    """K15: reason phrase, fields, body; early hints and trailers, which mitmproxy's hooks never see; and the
    page for an answer that is none, which would quote it."""
    seen = everything(served, road, RIGHT, path)
    assert hosts.requests(RIGHT)[0].all("Authorization") == [f"Bearer {hosts.token}"]
    assert seen
    assert hosts.token.encode() not in seen
    assert (b"upstream-response-malformed" in seen) == (path == "/ok/malformed")


@pytest.mark.parametrize("road", [FORWARD, CONNECT_TLS, PLAIN], ids=lambda road: road.name)
def test_rule_6_frames_of_a_websocket_have_no_secret(served: Served, hosts: World, road: Road) -> None:
    target = f"http://{RIGHT}/ok/socket" if road.kind == "forward" else "/ok/socket"
    with opened(served, road, RIGHT) as client:
        client.sendall(f"GET {target} HTTP/1.1\r\nHost: {RIGHT}\r\n{UPGRADE}".encode())
        seen = read_to_end(client)
    assert seen.startswith(b"HTTP/1.1 101 ")
    assert b"*" * len(hosts.token) in seen
    assert hosts.token.encode() not in seen


@pytest.mark.parametrize("road", [FORWARD, CONNECT_H2, TLS, H2], ids=lambda road: road.name)
def test_rule_6_a_secret_in_a_request_goes_nowhere_and_is_an_incident(
    served: Served, hosts: World, road: Road
) -> None:
    for path, fields, body in (
        (f"/{hosts.token}", (), None),
        ("/", (("X-A", hosts.token),), None),
        ("/", (), hosts.token.encode()),
    ):
        answer = ask(served, road, OTHER, path, *fields, method="GET" if body is None else "PUT", body=body)
        assert (answer.status, answer.reason) == (403, "secret-in-request")
        assert any(line.get("reason") == "secret-in-request" for line in served.audit()[-2:])
    assert hosts.token.encode() not in hosts.received(OTHER)


@pytest.mark.parametrize("road", [FORWARD, CONNECT_H2, PLAIN], ids=lambda road: road.name)
def test_rule_8_a_denial_teaches(served: Served, road: Road) -> None:
    answer = ask(served, road, RIGHT, "/elsewhere")
    said = json.loads(answer.body)
    assert (said["reason"], said["rule"]) == (answer.reason, "right") == ("path-not-allowed", "right")
    assert said["hint"]
    assert b"127.0.0.1" not in answer.body


def test_rule_8_names_are_answered_here_and_others_do_not_exist(served: Served) -> None:
    """K10"""
    assert served.resolve(RIGHT, dnsclient.A).address.startswith("198.1")
    assert served.resolve(RIGHT, dnsclient.A).address != served.resolve(OTHER, dnsclient.A).address
    for kind in (dnsclient.AAAA, dnsclient.TXT, dnsclient.HTTPS):
        reply = served.resolve(RIGHT, kind)
        assert (reply.code, reply.counts[1]) == (dnsclient.NOERROR, 0)
    assert served.resolve(f"data.{RIGHT}", dnsclient.A).code == dnsclient.NXDOMAIN
    assert served.audit()[-1]["road"] == "dns"


@pytest.mark.parametrize("road", [FORWARD, CONNECT_H2, PLAIN, H2], ids=lambda road: road.name)
def test_rule_11_an_event_arrives_before_the_next_one_is_sent(
    served: Served, hosts: World, road: Road
) -> None:
    with opened(served, road, RIGHT) as client:
        if road.http2:
            connection = Http2(client)  # type: ignore[arg-type]
            stream = connection.streams[connection.send(get(RIGHT, "/ok/events"))]
            for number in range(3):
                connection.until(lambda: bytes(stream.body).endswith(b"data: %d\n\n" % number))  # noqa: B023
                hosts.go_on.release()
            return
        target = f"http://{RIGHT}/ok/events" if road.kind == "forward" else "/ok/events"
        client.sendall(f"GET {target} HTTP/1.1\r\nHost: {RIGHT}\r\n\r\n".encode())
        seen = b""
        for number in range(3):
            while b"data: %d\n\n" % number not in seen:
                piece = client.recv(1 << 16)
                assert piece
                seen += piece
            hosts.go_on.release()
