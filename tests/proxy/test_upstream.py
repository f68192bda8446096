"""The way to a host: which addresses may be connected to, and what is said when there is none."""

from __future__ import annotations

import json
import socket

import pytest

from nsharness_proxy import upstream as way
from tests.proxy.rig import Proxy, Sandbox, policy, read_answer, rule
from tests.proxy.upstreams import Upstream


def test_an_address_of_this_machine_is_recognised() -> None:
    """Whatever range it is from: services of the host listen there too."""
    assert way.is_own(("127.0.0.1", 80))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            return
        assert way.is_own((probe.getsockname()[0], 80))
        assert not way.is_own(("192.0.2.1", 80))


@pytest.mark.parametrize(
    "host", ["localhost", "127.0.0.1", "169.254.169.254", "10.127.0.1", "0.0.0.0", "[::1]"]
)
@pytest.mark.parametrize("scheme", ["http", "connect"])
def test_a_rule_alone_opens_no_way_into_the_host_or_its_network(
    proxy: Proxy, sandbox: Sandbox, upstream: Upstream, host: str, scheme: str
) -> None:
    """Without a mapping, a rule that names such an address (or a name of one) leads nowhere."""
    proxy.attach(sandbox, policy(rule("inside", host.strip("[]"), ports=[80, upstream.port])))
    target = f"{host}:{upstream.port}"
    if scheme == "http":
        answer = sandbox.get(f"http://{target}/")
    else:
        with sandbox.connect() as client:
            client.sendall(f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n".encode())
            assert read_answer(client, "CONNECT").status == 200
            client.sendall(f"GET / HTTP/1.1\r\nHost: {target}\r\n\r\n".encode())
            answer = read_answer(client)
    assert (answer.status, answer.reason) == (502, "upstream-address-refused")
    assert not upstream.accepted
    # Nothing is told of what was found there.
    assert b"127.0.0.1" not in answer.body
    assert proxy.audit("error", sandbox=sandbox.id)["reason"] == "upstream-address-refused"


def test_a_denied_request_causes_no_look_up(proxy: Proxy, sandbox: Sandbox) -> None:
    """K10: the name below would be refused for its address if it were looked up."""
    proxy.attach(sandbox, policy(rule("other", "other.local")))
    assert sandbox.get("http://localhost/").reason == "host-not-allowed"


def test_a_mapping_counts_for_its_port_only(proxy: Proxy, sandbox: Sandbox, upstream: Upstream) -> None:
    rules = policy(rule("inside", "localhost", ports=[80, 8080]), upstreams={"localhost:80": upstream.port})
    proxy.attach(sandbox, rules)
    assert sandbox.get("http://localhost/").status == 200
    assert sandbox.get("http://localhost:8080/").reason == "upstream-address-refused"


def test_a_host_that_is_down_is_tried_again_with_the_next_request(proxy: Proxy, sandbox: Sandbox) -> None:
    """Over the same client connection; the engine would remember the failure for as long as that lives."""
    with socket.create_server(("127.0.0.1", 0)) as reserved:
        port = reserved.getsockname()[1]
    proxy.attach(sandbox, policy(rule("open", "open.local"), upstreams={"open.local:80": port}))
    request = b"GET http://open.local/ HTTP/1.1\r\nHost: open.local\r\n\r\n"
    answer = sandbox.exchange(request)
    assert (answer.status, answer.reason) == (502, "upstream-unreachable")
    assert json.loads(answer.body)["reason"] == "upstream-unreachable"
    assert str(port).encode() not in answer.body
    with socket.create_server(("127.0.0.1", port)) as back:
        back.settimeout(10)
        with sandbox.connect() as client:
            client.sendall(request)
            connection, _ = back.accept()
            with connection:
                connection.recv(1 << 16)
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
                assert read_answer(client).status == 200


async def test_small_packets_leave_at_once(upstream: Upstream) -> None:
    """Without TCP_NODELAY every answer that comes in two pieces takes 40 ms."""
    _, writer = await way.connect(policy(upstreams={"a.local:80": upstream.port}), "a.local", 80)
    sock = writer.get_extra_info("socket")
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    writer.close()
    await writer.wait_closed()


async def test_only_public_addresses_of_others_are_tried(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tried = []

    async def opened(address: tuple[str, int]) -> None:
        tried.append(address)
        raise ConnectionRefusedError

    async def found(*_: object, **__: object) -> list[object]:
        addresses = [
            "10.0.0.1",
            "2606:4700::1",
            "127.0.0.1",
            "9.9.9.9",
            "1.1.1.1",
            "1.1.1.1",
            "169.254.169.254",
        ]
        return [(0, 0, 0, "", (address, 443)) for address in addresses]

    import asyncio

    monkeypatch.setattr(way, "_open", opened)
    monkeypatch.setattr(way, "is_own", lambda address: address[0] == "9.9.9.9")
    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", found)
    with pytest.raises(way.UpstreamError, match="upstream-unreachable"):
        await way.connect(policy(), "mixed.example", 443)
    assert tried == [("2606:4700::1", 443), ("1.1.1.1", 443)]
