"""Start, end, and start again: the sockets, the credentials and the trust outlive a proxy process."""

from __future__ import annotations

import os
import signal
import socket
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from nsharness.linux import fds
from tests.proxy.rig import (
    AUTHORITY,
    DEADLINE,
    Proxy,
    Sandbox,
    credential_map,
    new_token,
    policy,
    read_answer,
    rule,
    tunnel,
)
from tests.proxy.tlshost import Authority
from tests.proxy.upstreams import Upstream
from tests.support import waiting

EMPTY = credential_map({})


@pytest.fixture
def memory() -> Iterator[Callable[[bytes | None], int]]:
    """Makes memfds that are closed after the test."""
    made: list[int] = []

    def make(content: bytes | None = None) -> int:
        made.append(fds.memfd("test", content))
        return made[-1]

    yield make
    fds.close_all(made)


def test_the_certificate_comes_first_and_the_engine_last() -> None:
    credentials = credential_map({"wiki.local": {"Authorization": "Bearer 12345678", "X-Key": "12345678"}})
    with Proxy(credentials) as proxy:
        proxy.event("ready")
        assert [event["event"] for event in proxy.events] == ["ca", "credentials", "ready"]
        assert proxy.ca.startswith("-----BEGIN CERTIFICATE-----")
        loaded = proxy.event("credentials")
        assert loaded["hosts"] == ["wiki.local"]
        assert loaded["headers"] == {"wiki.local": ["Authorization", "X-Key"]}


@pytest.mark.parametrize("end", ["stop", "hang up", "terminate"])
def test_it_ends_at_once_with_the_supervisor(end: str, sandbox: Sandbox, upstream: Upstream) -> None:
    """Even with a connection open and a request under way."""
    with Proxy(EMPTY) as proxy:
        proxy.attach(sandbox, policy(rule("open", "open.local"), upstreams={"open.local:80": upstream.port}))
        with sandbox.connect() as client:
            client.sendall(b"GET http://open.local/ HTTP/1.1\r\nHost: open.local\r\n\r\nGET ")
            assert read_answer(client).status == 200
            started = time.monotonic()
            if end == "stop":
                proxy.send({"op": "stop"})
            elif end == "terminate":
                proxy.process.send_signal(signal.SIGTERM)
            else:
                proxy.hang_up()
            assert proxy.process.wait(DEADLINE) == 0
            assert time.monotonic() - started < 2.0


def test_an_end_before_the_start_is_an_end(tmp_path: Path) -> None:
    with Proxy(EMPTY) as proxy:
        proxy.hang_up()
        assert proxy.process.wait(DEADLINE) == 0


def test_ctrl_c_is_for_the_supervisor() -> None:
    with Proxy(EMPTY) as proxy:
        proxy.event("ready")
        for number in (signal.SIGINT, signal.SIGHUP):
            proxy.process.send_signal(number)
        proxy.send({"op": "detach", "sandbox": "none", "tag": "t"})
        assert proxy.event("detached")["reply_to"] == "t"


def test_after_a_kill_the_next_one_goes_on_where_it_was(
    sandbox: Sandbox, memory: Callable[..., int], upstream: Upstream, tmp_path: Path, token: str
) -> None:
    """The same sockets, map and key: what waits is served, and clients that are running go on trusting."""
    header = {"Authorization": f"Bearer {token}"}
    sealed = memory(credential_map({"wiki.local": header, "secure.local": header}).to_bytes())
    key = memory(None)
    authority = Authority(tmp_path)
    with Upstream(tls=authority.server("secure.local")) as secure:
        rules = policy(
            rule("wiki", "wiki.local", "secure.local", headers=["Authorization"]),
            upstreams={"wiki.local:80": upstream.port, "secure.local:443": secure.port},
        )
        with Proxy(EMPTY, ca_fd=key, sealed_map=sealed) as first:
            first.attach(sandbox, rules, upstream_ca=authority.pem)
            trust = first.trust()
            assert sandbox.get("http://wiki.local/").status == 200
            with sandbox.connect() as open_connection:
                open_connection.sendall(b"GET http://no.local/ HTTP/1.1\r\nHost: no.local\r\n\r\n")
                assert read_answer(open_connection).status == 403
                first.kill()
                assert open_connection.recv(1) == b""
        assert fds.is_sealed(key)
        with sandbox.connect() as waiting:
            waiting.sendall(b"GET http://wiki.local/late HTTP/1.1\r\nHost: wiki.local\r\n\r\n")
            waiting.settimeout(0.2)
            with pytest.raises(TimeoutError):
                waiting.recv(1)
            assert len(upstream.requests) == 1
            with Proxy(EMPTY, ca_fd=key, sealed_map=sealed) as second:
                second.attach(sandbox, rules, upstream_ca=authority.pem)
                assert second.ca == first.ca
                waiting.settimeout(DEADLINE)
                assert read_answer(waiting).status == 200
                assert upstream.requests[1].all("Authorization") == [f"Bearer {token}"]
                with sandbox.connect() as client:
                    assert tunnel(client, "secure.local:443").status == 200
                    with trust.wrap_socket(client, server_hostname="secure.local") as secured:
                        secured.sendall(b"GET / HTTP/1.1\r\nHost: secure.local\r\n\r\n")
                        assert read_answer(secured).status == 200


@pytest.mark.parametrize(
    "content", [b"{", b'{"wiki.local": "x"}', b'{"wiki.local": {"A": 12345678}}', b"\xff"]
)
def test_a_map_that_cannot_be_read_is_fatal_and_not_quoted(
    memory: Callable[..., int], content: bytes
) -> None:
    with Proxy(EMPTY, sealed_map=memory(content)) as proxy:
        event = proxy.event("fatal")
        assert event["text"] == "proxy: the credential map is malformed"
        assert proxy.process.wait(DEADLINE) == 1


def test_a_key_that_cannot_be_read_is_fatal(memory: Callable[..., int]) -> None:
    with Proxy(EMPTY, ca_fd=memory(b"-----BEGIN PRIVATE KEY-----\nx\n-----END PRIVATE KEY-----\n")) as proxy:
        proxy.event("fatal")
        assert proxy.process.wait(DEADLINE) == 1


def test_the_first_message_is_start() -> None:
    with Proxy(EMPTY, start={"op": "attach"}) as proxy:
        assert "start" in proxy.event("fatal")["text"]
        assert proxy.process.wait(DEADLINE) == 1


@pytest.mark.root
@pytest.mark.parametrize("drop", [{"uid": None, "gid": None}, {"uid": 0, "gid": 0}])
def test_it_does_not_run_as_root(drop: dict[str, int | None]) -> None:
    with Proxy(EMPTY, start={"op": "start", **drop}) as proxy:
        assert "root" in proxy.event("fatal")["text"]
        assert proxy.process.wait(DEADLINE) == 1


def descriptors(proxy: Proxy) -> int:
    return len(list(Path(f"/proc/{proxy.pid}/fd").iterdir()))


BROKEN = {
    "unknown key": {"polcy": {}},
    "policy key": {
        "policy": {"profile": "x", "rules": [], "upstreams": {}, "proxy_auth": "listener", "more": 1}
    },
    "no policy": {"policy": None},
    "empty hosts": {"policy": {**policy(rule("a", "b.c")).to_json(), "rules": [{"name": "a", "hosts": []}]}},
    "bearer without need": {"bearer": "12345678"},
    "bearer missing": {"policy": policy(proxy_auth="bearer").to_json()},
    "names": {"names": {"names": ["a.b", "a.b"]}},
    "authority": {"upstream_ca": "none"},
}


@pytest.mark.parametrize("change", BROKEN.values(), ids=BROKEN.keys())
def test_a_sandbox_whose_policy_cannot_be_read_is_not_served(
    running_proxy: Proxy, sandbox: Sandbox, change: dict[str, object]
) -> None:
    """K3, K12: unknown keys are errors; other sandboxes are not disturbed, and no descriptor is kept."""
    running_proxy.events.clear()
    log = os.open(sandbox.audit, os.O_WRONLY | os.O_CREAT)
    as_root = os.geteuid() == 0
    before = descriptors(running_proxy) if as_root else 0
    message = {
        "op": "attach",
        "sandbox": sandbox.id,
        "policy": policy().to_json(),
        "bearer": None,
        "authority": AUTHORITY,
        "tag": "7",
    }
    running_proxy.send({**message, **change}, (*(s.fileno() for s in sandbox.sockets), log))
    os.close(log)
    event = running_proxy.event("error", sandbox=sandbox.id)
    assert event["reply_to"] == "7"
    assert event["why"]
    assert not as_root or descriptors(running_proxy) == before
    with sandbox.connect() as client:
        client.sendall(b"GET http://open.local/ HTTP/1.1\r\nHost: open.local\r\n\r\n")
        client.settimeout(0.1)
        with pytest.raises(TimeoutError):
            client.recv(1)


def test_descriptors_that_are_no_sockets_or_too_few_are_refused(
    running_proxy: Proxy, sandbox: Sandbox
) -> None:
    running_proxy.events.clear()
    message = {
        "op": "attach",
        "sandbox": sandbox.id,
        "policy": policy().to_json(),
        "bearer": None,
        "authority": AUTHORITY,
        "tag": "7",
    }
    reading, writing = os.pipe()
    running_proxy.send(message, [reading] * 6)
    assert "socket" in running_proxy.event("error", sandbox=sandbox.id)["why"]
    running_proxy.events.clear()
    running_proxy.send(message, [s.fileno() for s in sandbox.sockets])
    assert "5 descriptors" in running_proxy.event("error", sandbox=sandbox.id)["why"]
    fds.close_all((reading, writing))


def test_a_sandbox_is_attached_once(proxy: Proxy, sandbox: Sandbox) -> None:
    proxy.attach(sandbox, policy())
    log = os.open(sandbox.audit, os.O_WRONLY)
    message = {
        "op": "attach",
        "sandbox": sandbox.id,
        "policy": policy().to_json(),
        "bearer": None,
        "authority": AUTHORITY,
        "tag": "7",
    }
    proxy.send(message, (*(s.fileno() for s in sandbox.sockets), log))
    os.close(log)
    assert "attached already" in proxy.event("error", sandbox=sandbox.id)["why"]
    assert sandbox.get("http://open.local/").status == 403


def test_without_a_record_nothing_passes(proxy: Proxy, sandbox: Sandbox, upstream: Upstream) -> None:
    """K12: an audit log that takes nothing (here: a full device) is no reason to go on without."""
    sandbox.audit = Path("/dev/full")
    rules = policy(
        rule("wiki", "wiki.local", headers=["Authorization"]), upstreams={"wiki.local:80": upstream.port}
    )
    proxy.attach(sandbox, rules)
    assert sandbox.everything(b"GET http://wiki.local/ HTTP/1.1\r\nHost: wiki.local\r\n\r\n") == b""
    assert not upstream.received
    told = proxy.wait_for(lambda event: event["event"] == "log" and "guard failed" in event["text"])
    assert "OSError" in told["text"]
    proxy.send({"op": "detach", "sandbox": sandbox.id})
    proxy.event("detached", sandbox=sandbox.id)
    # That the connection's end could not be recorded either may have been said meanwhile.
    proxy.events.clear()


def test_a_supervisor_that_does_not_listen_stops_nothing(
    sandbox: Sandbox, upstream: Upstream, memory: Callable[..., int]
) -> None:
    """Copies of audit events are dropped then; the log has all of them."""
    with Proxy(credential_map({"wiki.local": {"Authorization": new_token()}})) as proxy:
        rules = policy(
            rule("wiki", "wiki.local", headers=["Authorization"]), upstreams={"wiki.local:80": upstream.port}
        )
        proxy.attach(sandbox, rules)
        with proxy.paused(), sandbox.connect() as client:
            for _ in range(500):
                client.sendall(b"GET http://wiki.local/ HTTP/1.1\r\nHost: wiki.local\r\n\r\n")
                assert read_answer(client).status == 200
        expected = 500 * ["inject", "response"]
        waiting.eventually(lambda: [line["action"] for line in sandbox.log()] == expected)
        proxy.send({"op": "detach", "sandbox": sandbox.id})
        proxy.event("detached")
        assert len([event for event in proxy.events if event["event"] == "audit"]) < 1000


def test_the_command_line_is_checked() -> None:
    from tests.proxy.rig import command

    done = subprocess.run([*command(), "--control-fd", "x"], capture_output=True, text=True, timeout=DEADLINE)
    assert done.returncode == 2
    assert "control-fd" in done.stderr


def backlog(sock: socket.socket) -> int:
    """How many connections may wait: of a listening socket TCP_INFO has it in tcpi_sacked (tcp(7))."""
    (length,) = struct.unpack_from("=I", sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104), 28)
    return int(length)


def test_a_backlog_is_not_cut_short(proxy: Proxy, sandbox: Sandbox) -> None:
    """Serving a socket calls listen(2) again, and asyncio's default would be 100."""
    most = int(Path("/proc/sys/net/core/somaxconn").read_text())
    proxy.attach(sandbox, policy())
    for sock in (*sandbox.sockets[:3], sandbox.sockets[4]):
        assert backlog(sock) == min(4096, most)


def test_its_last_words_arrive() -> None:
    """Also when it ends with messages of ours unread."""
    with Proxy(EMPTY, start={"op": "nothing"}) as proxy, proxy.paused():
        proxy.send({"op": "unread"})
        proxy.process.wait(DEADLINE)
    proxy.event("fatal")
