"""Rules 9, 12 and 13: who is served, what happens when the engine dies, and what it says about itself."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import ssl
from pathlib import Path

import pytest

from tests.contract.engine import Engine, Served
from tests.contract.roads import ROADS, ask, opened
from tests.contract.world import OTHER, RIGHT, World
from tests.proxy.rig import policy, read_answer, read_to_end, rule

pytestmark = pytest.mark.kernel("userns", "veth")

FORWARD, CONNECT, CONNECT_TLS, CONNECT_H2, PLAIN, TLS, H2 = ROADS
BEARER = "bearer-0123456789"


def test_rule_9_the_listener_is_the_identity_or_a_bearer_is(
    engine: Engine, served: Served, hosts: World, folder: Path
) -> None:
    """Another sandbox has another policy, and the bearer of one is nothing to the other."""
    more = policy(
        rule("other", OTHER, inspect=True),
        upstreams={f"{OTHER}:80": hosts.plain[OTHER].port},
        proxy_auth="bearer",
    )
    setup = dataclasses.replace(hosts.setup(), policy=more, bearer=BEARER)
    given = ("Proxy-Authorization", "Basic " + base64.b64encode(f"{BEARER}:".encode()).decode())
    with engine.serve("second", setup, folder) as second:
        assert ask(second, FORWARD, OTHER).status == 407
        assert ask(second, FORWARD, OTHER, "/", given).status == 200
        assert ask(second, FORWARD, RIGHT, "/ok/a", given).status == 403
        with second.dial("http", OTHER) as client:
            client.sendall(f"GET / HTTP/1.1\r\nHost: {OTHER}\r\n\r\n".encode())
            assert read_to_end(client) == b""
        assert ask(served, FORWARD, "no.local", "/", given).status == 403
        assert b"Proxy-Auth" not in hosts.received(OTHER)


def test_rule_9_a_certificate_is_the_identity_at_a_listener_of_its_own(
    engine: Engine, hosts: World, folder: Path, tmp_path: Path
) -> None:
    """That of one sandbox is nothing to the other, and where it is wanted nothing else is served."""
    more = policy(
        rule("other", OTHER, inspect=True),
        upstreams={f"{OTHER}:80": hosts.plain[OTHER].port},
        proxy_auth="mtls",
    )
    setup = dataclasses.replace(hosts.setup(), policy=more)
    request = f"GET http://{OTHER}/ HTTP/1.1\r\nHost: {OTHER}\r\n\r\n".encode()

    def answered(served: Served, certificate: tuple[str, str] | None) -> bytes:
        context = served.trust()
        if certificate is not None:
            (tmp_path / "own.pem").write_text("".join(certificate))
            context.load_cert_chain(tmp_path / "own.pem")
        try:
            with (
                served.dial("mtls") as client,
                context.wrap_socket(client, server_hostname="10.127.0.1") as secured,
            ):
                secured.sendall(request)
                return secured.recv(12)
        except (ssl.SSLError, ConnectionError):
            return b""

    with engine.serve("one", setup, folder) as one, engine.serve("two", setup, folder) as two:
        assert answered(one, one.certificate()) == b"HTTP/1.1 200"
        assert answered(two, two.certificate()) == b"HTTP/1.1 200"
        hosts.forget()
        assert answered(one, two.certificate()) == b""
        assert answered(one, None) == b""
        assert one.trust().get_ca_certs() != two.trust().get_ca_certs()
        with pytest.raises(OSError):  # noqa: PT011 - where a certificate is wanted, the other listener is closed
            one.dial("explicit").close()
        with one.dial("http", OTHER) as client:
            client.sendall(f"GET / HTTP/1.1\r\nHost: {OTHER}\r\n\r\n".encode())
            assert read_to_end(client) == b""
        assert hosts.received(OTHER) == b""
        refused = {line["reason"] for line in one.audit() if line["action"] == "deny"}
        assert {"client-certificate-refused", "transparent-closed"} <= refused


def test_rule_12_a_changed_policy_is_taken_whole_or_not_at_all(served: Served, hosts: World) -> None:
    """K3"""
    whole = hosts.policy()
    narrow = dataclasses.replace(whole, rules=tuple(r for r in whole.rules if r.name != "right"))
    assert not served.reload({"nonsense": True})
    assert ask(served, FORWARD, RIGHT, "/ok/a").status == 200
    assert served.reload(narrow)
    try:
        for road in (FORWARD, PLAIN):
            assert ask(served, road, OTHER).status == 200
        assert ask(served, FORWARD, RIGHT, "/ok/a").status == 403
    finally:
        assert served.reload(whole)
    assert ask(served, CONNECT_H2, RIGHT, "/ok/a").status == 200


@pytest.mark.slow
def test_rule_12_nothing_passes_without_an_engine_and_the_next_one_goes_on(
    engine: Engine, hosts: World, folder: Path
) -> None:
    """What waits is served, and a client that is running goes on trusting and resolving."""
    with engine.serve("mortal", hosts.setup(), folder) as served:
        _outlive_a_crash(served, hosts)


def _outlive_a_crash(served: Served, hosts: World) -> None:
    hosts.forget()
    trust = served.trust()
    with opened(served, PLAIN, RIGHT) as early:
        early.sendall(f"GET / HTTP/1.1\r\nHost: {RIGHT}\r\n\r\n".encode())
        assert read_answer(early).status == 403
        with contextlib.ExitStack() as stack:
            with served.crash():
                late = stack.enter_context(served.dial("http", RIGHT))
                late.sendall(f"GET /ok/late HTTP/1.1\r\nHost: {RIGHT}\r\n\r\n".encode())
                assert read_to_end(early) == b""
                assert hosts.requests(RIGHT) == []
            assert read_answer(late).status == 200
    with opened(served, TLS, RIGHT, trust=trust) as client:
        client.sendall(f"GET /ok/a HTTP/1.1\r\nHost: {RIGHT}\r\n\r\n".encode())
        assert read_answer(client).status == 200
    assert [r.all("Authorization") for r in hosts.requests(RIGHT)] == [[f"Bearer {hosts.token}"]] * 2


def test_rule_13_nothing_that_it_says_has_a_secret_and_it_has_no_pages(served: Served, hosts: World) -> None:
    """K19, K21"""
    for road in (FORWARD, CONNECT_H2, PLAIN):
        ask(served, road, RIGHT, "/ok/echo", ("Authorization", "mine"))
    assert ask(served, FORWARD, "mitm.it").reason == "host-not-allowed"
    said = served.said()
    assert "inject" in said
    for secret in (hosts.token, hosts.key):
        assert secret not in said
        assert base64.b64encode(secret.encode()).decode()[:20] not in said
