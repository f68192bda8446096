"""Hosts that no rule names, where a person is asked: whatever ends the wait but a yes is a no."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from nsharness.policy.asking import granted
from nsharness.policy.model import Policy
from tests.contract.engine import Engine, Served
from tests.contract.roads import ROADS, Road, ask, opened
from tests.contract.world import OTHER, RIGHT, World
from tests.proxy import dnsclient
from tests.proxy.h2client import Http2, get
from tests.proxy.rig import Answer, read_to_end, rule
from tests.support.waiting import eventually

pytestmark = pytest.mark.kernel("userns", "veth")

FORWARD, CONNECT, CONNECT_TLS, CONNECT_H2, PLAIN, TLS, H2 = ROADS
DENIED = "denied.example.org"


def asks(hosts: World, seconds: int = 60) -> Policy:
    """Only the right host is named; of the others, those that are mapped may be asked about."""
    (right,) = (each for each in hosts.policy().rules if each.name == "right")
    rules = (right, rule("never", DENIED, "*.below.local", deny=True))
    return dataclasses.replace(hosts.policy(), rules=rules, unknown="ask", ask_seconds=seconds)


@pytest.fixture(scope="module")
def sandbox_that_asks(engine: Engine, hosts: World, folder: Path) -> Iterator[Served]:
    with engine.serve("asks", dataclasses.replace(hosts.setup(), policy=asks(hosts)), folder) as served:
        yield served


@pytest.fixture
def served(sandbox_that_asks: Served, hosts: World) -> Served:
    assert sandbox_that_asks.reload(asks(hosts))
    hosts.forget()
    return sandbox_that_asks


def waiting(served: Served, before: int = 0) -> int:
    return eventually(lambda: len(asked(served)) - before, what="a question")


def asked(served: Served) -> list[str]:
    return [event["host"] for event in served.audit() if event["action"] == "ask"]


def reasons(served: Served) -> list[str]:
    return [event["reason"] for event in served.audit() if event["action"] == "deny"]


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor() as executor:
        yield executor


def test_a_request_waits_until_there_is_a_yes(
    served: Served, hosts: World, road: Road, pool: ThreadPoolExecutor
) -> None:
    before = len(asked(served))
    answers: list[Future[Answer]] = [pool.submit(ask, served, road, OTHER, f"/{n}") for n in range(2)]
    eventually(lambda: waiting(served, before) == 2)
    assert hosts.received(OTHER) == b""
    assert not any(each.done() for each in answers)
    assert served.reload(granted(asks(hosts), [OTHER]))
    assert [each.result().status for each in answers] == [200, 200]
    # Nobody is asked again, and whoever is allowed so has no credential.
    assert ask(served, road, OTHER, "/later").status == 200
    assert len(asked(served)) == before + 2
    assert hosts.token.encode() not in hosts.received(OTHER)
    assert ask(served, road, RIGHT, "/ok/a").status == 200


def test_a_no_and_no_answer_are_denials(
    engine: Engine, hosts: World, folder: Path, pool: ThreadPoolExecutor
) -> None:
    setup = dataclasses.replace(hosts.setup(), policy=asks(hosts, 1))
    hosts.forget()
    with engine.serve("denies", setup, folder) as served:
        unanswered = [pool.submit(ask, served, road, OTHER) for road in (FORWARD, CONNECT_H2, TLS)]
        assert {each.result().reason for each in unanswered} == {"ask-timeout"}
        refused = pool.submit(ask, served, PLAIN, "tunnel.local")
        waiting(served, 3)
        served.refuse("tunnel.local")
        assert (refused.result().status, refused.result().reason) == (403, "ask-never")
        # From now on at once, until somebody says yes.
        questions = len(asked(served))
        assert ask(served, CONNECT, OTHER).reason == "ask-timeout"
        assert ask(served, H2, "tunnel.local").reason == "ask-never"
        assert len(asked(served)) == questions
        assert hosts.received(OTHER, "tunnel.local") == b""
        assert served.reload(granted(asks(hosts), [OTHER]))
        assert ask(served, PLAIN, OTHER).status == 200


def test_a_client_that_goes_away_withdraws_its_question(served: Served, hosts: World) -> None:
    before, denials = len(asked(served)), len(reasons(served))
    with opened(served, FORWARD, OTHER) as client:
        client.sendall(f"GET http://{OTHER}/ HTTP/1.1\r\nHost: {OTHER}\r\n\r\n".encode())
        waiting(served, before)
    with opened(served, H2, OTHER) as client:
        connection = Http2(client)  # type: ignore[arg-type]
        number = connection.send(get(OTHER))
        eventually(lambda: waiting(served, before) == 2)
        connection.codec.reset_stream(number)
        connection.flush()
        eventually(lambda: len(reasons(served)) == denials + 2)
    with opened(served, CONNECT, OTHER) as client:
        # Nothing more is read from one that has sent so much already.
        client.sendall(f"PUT / HTTP/1.1\r\nHost: {OTHER}\r\nContent-Length: 999999\r\n\r\n".encode())
        eventually(lambda: waiting(served, before) == 3)
        # (And what is still unread has room in the socket: an end behind what has none is not seen.)
        client.sendall(bytes(450_000))
    eventually(lambda: len(reasons(served)) == denials + 3)
    assert reasons(served)[denials:] == ["ask-withdrawn"] * 3
    assert hosts.received(OTHER) == b""


@pytest.mark.slow
def test_when_the_engine_dies_what_waits_is_lost_and_nothing_has_passed(
    engine: Engine, hosts: World, folder: Path
) -> None:
    setup = dataclasses.replace(hosts.setup(), policy=asks(hosts))
    hosts.forget()
    with engine.serve("dies", setup, folder) as served:
        with opened(served, PLAIN, OTHER) as client:
            client.sendall(f"GET / HTTP/1.1\r\nHost: {OTHER}\r\n\r\n".encode())
            waiting(served)
            with served.crash():
                assert read_to_end(client) == b""
        assert hosts.received(OTHER) == b""


def test_nobody_is_asked_about_what_no_answer_could_allow(served: Served) -> None:
    """Denied hosts, addresses, names of this network, other ports; and a request that nobody may send."""
    before = len(asked(served))
    for host in (DENIED, "a.below.local", "192.0.2.7", "169.254.169.254", "[::1]", "localhost", "x.internal"):
        answer = ask(served, FORWARD, host)
        assert answer.status == 403, host
        assert answer.reason in ("host-not-allowed", "denied-by-rule")
    assert ask(served, FORWARD, f"{OTHER}:22").reason == "host-not-allowed"
    assert ask(served, FORWARD, OTHER, named=RIGHT).status == 421
    assert ask(served, FORWARD, RIGHT, "/elsewhere").reason == "path-not-allowed"
    assert len(asked(served)) == before
    assert served.resolve(OTHER, dnsclient.A).address
    assert served.resolve("unknown.example.org", dnsclient.A).address
    for name in (DENIED, "a.below.local", "x.internal", "printer"):
        assert served.resolve(name, dnsclient.A).code == dnsclient.NXDOMAIN, name
