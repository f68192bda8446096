"""No secret where it must not be: not in what the proxy says, writes, or shows of itself."""

from __future__ import annotations

import contextlib
import json
import os
import stat
import sys
from pathlib import Path

import pytest

from nsharness_proxy.report import describe
from tests.proxy.rig import Proxy, Sandbox, credential_map, new_token, policy, read_answer, rule, tunnel
from tests.proxy.test_identity import basic
from tests.proxy.upstreams import Upstream, ok
from tests.support import leaks, waiting


@pytest.fixture
def used(tmp_path: Path, sandbox: Sandbox) -> object:
    """A proxy that has served and refused all sorts of requests, with all that it said."""
    token, bearer = new_token(), new_token("b_")
    output = tmp_path / "output"

    def handler(request: object) -> list[bytes]:
        line = getattr(request, "line", "")
        auth = getattr(request, "headers", ())
        echo = repr(auth).encode()
        answers = {
            "/echo": ok(echo, b"X-Echo: " + echo),
            "/broken": b"HTTP/1.1 200 " + echo + b"\r\nno colon " + echo + b"\r\n\r\n",
            "/garbage": echo + b"\r\n\r\n",
            "/length": b"HTTP/1.1 200 OK\r\nContent-Length: " + echo + b"\r\n\r\n",
        }
        return [answers.get(line.split()[1], ok())]

    with Upstream(handler) as upstream:
        credentials = credential_map({"wiki.local": {"Authorization": f"Bearer {token}"}})
        rules = policy(
            rule("wiki", "wiki.local", headers=["Authorization"]),
            upstreams={"wiki.local:80": upstream.port},
            proxy_auth="bearer",
        )
        with Proxy(credentials, output=output) as proxy:
            proxy.attach(sandbox, rules, bearer=bearer)
            admit = f"Proxy-Authorization: {basic(bearer)}"
            for path in ("/", "/echo", "/broken", "/garbage", "/length", "/%zz"):
                sandbox.get(f"http://wiki.local{path}", admit)
            sandbox.get("http://evil.local/", admit)
            sandbox.get("http://wiki.local/", admit, host="evil.local")
            sandbox.get("http://wiki.local/")
            sandbox.everything(f"GET /{bearer} HTTP/9.9\r\n{admit}\r\nbad line {bearer}\r\n\r\n".encode())
            sandbox.everything(f"GET / HTTP/1.1\r\nContent-Length: {bearer}\r\n{admit}\r\n\r\n".encode())
            with sandbox.connect() as client:
                tunnel(client, "wiki.local:80", admit)
                client.sendall(b"GET / HTTP/1.1\r\nHost: wiki.local\r\n\r\n")
                assert read_answer(client).status == 200
            assert leaks.in_bytes(bytes(upstream.received), {token.encode()})
            assert not leaks.in_bytes(bytes(upstream.received), {bearer.encode(), basic(bearer).encode()})
            yield proxy, leaks.forms(token.encode()) | leaks.forms(bearer.encode()), sandbox, output


def opened(proxy: Proxy) -> list[tuple[str, os.stat_result]]:
    """What it has open, but for standard input and output, which are the test's own here."""
    found = []
    for entry in Path(f"/proc/{proxy.pid}/fd").iterdir():
        # Connections come and go meanwhile.
        with contextlib.suppress(FileNotFoundError):
            if int(entry.name) > 2:
                found.append((str(entry.readlink()), entry.stat()))
    return found


Used = tuple[Proxy, set[bytes], Sandbox, Path]


def test_nothing_that_it_says_or_writes_has_a_secret(used: Used, tmp_path: Path, private_home: Path) -> None:
    """K14, K19: events, log, standard output, every file of the test, arguments and environments of all."""
    proxy, needles, sandbox, output = used
    said = json.dumps(proxy.events).encode()
    assert b"misdirected-request" in said
    assert not leaks.in_bytes(said, needles)
    assert not leaks.in_files([tmp_path, private_home.parent], needles)
    assert not leaks.in_processes(needles)
    assert output.read_bytes() == b""
    assert len(sandbox.log()) > 15


def test_that_search_finds_what_is_planted(used: Used, tmp_path: Path) -> None:
    _, needles, sandbox, _ = used
    for needle in needles:
        with sandbox.audit.open("ab") as log:
            log.write(b"x" + needle + b"x")
        assert leaks.in_files([tmp_path], needles) == [str(sandbox.audit)]
        sandbox.audit.write_bytes(b"")


@pytest.mark.root
def test_the_descriptors_of_map_and_key_are_closed(used: Used) -> None:
    proxy, *_ = used
    assert not [target for target, _ in opened(proxy) if "memfd" in target]


def test_it_cannot_be_traced_or_dumped_and_can_do_nothing(used: Used) -> None:
    proxy, *_ = used
    status = dict(
        line.split(":\t", 1)
        for line in Path(f"/proc/{proxy.pid}/status").read_text().splitlines()
        if ":\t" in line
    )
    # Files of an undumpable process belong to root, whoever it runs as (proc(5)).
    assert Path(f"/proc/{proxy.pid}/mem").stat().st_uid == 0
    assert "0" not in status["Uid"].split()
    assert {status[name] for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")} == {"0" * 16}
    assert status["NoNewPrivs"] == "1"
    core = next(line for line in Path(f"/proc/{proxy.pid}/limits").read_text().splitlines() if "core" in line)
    assert core.split()[4:6] == ["0", "0"]


def test_the_environment_it_was_started_with_means_nothing(tmp_path: Path, sandbox: Sandbox) -> None:
    """Neither a key log, nor other authorities, nor another place for the engine's configuration."""
    names = ("SSLKEYLOGFILE", "MITMPROXY_SSLKEYLOGFILE", "OPENSSL_CONF", "SSL_CERT_FILE", "PYTHONSTARTUP")
    environment = {name: str(tmp_path / name) for name in names}
    environment |= {"HOME": str(tmp_path), "PYTHONPATH": str(tmp_path), "http_proxy": "http://127.0.0.1:9"}
    (tmp_path / "mitmproxy.py").write_text("raise SystemExit('impostor')")
    (tmp_path / "nsharness_proxy.py").write_text("raise SystemExit('impostor')")
    with Upstream() as upstream, Proxy(credential_map({}), environment=environment) as proxy:
        rules = policy(rule("open", "open.local"), upstreams={"open.local:80": upstream.port})
        proxy.attach(sandbox, rules)
        with sandbox.connect() as client:
            tunnel(client, "open.local:80")
            client.sendall(b"GET / HTTP/1.1\r\nHost: open.local\r\n\r\n")
            assert read_answer(client).status == 200
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "mitmproxy.py",
        "nsharness_proxy.py",
        sandbox.audit.name,
    ]


@pytest.mark.root
def test_it_opens_no_file_and_no_listener_of_its_own(
    proxy: Proxy, sandbox: Sandbox, upstream: Upstream
) -> None:
    """K21: everything it has open is what it was given, its control socket, its event loop, and the folders
    of its modules."""
    rules = policy(rule("open", "open.local"), upstreams={"open.local:80": upstream.port})
    proxy.attach(sandbox, rules)
    before = len(opened(proxy))
    assert sandbox.get("http://open.local/").status == 200
    given = {os.fstat(sock.fileno()).st_ino for sock in sandbox.sockets}
    table = (
        Path("/proc/net/tcp").read_text().splitlines()[1:]
        + Path("/proc/net/tcp6").read_text().splitlines()[1:]
    )
    listening = {int(line.split()[9]) for line in table if line.split()[3] == "0A"}

    own = [status.st_ino for _, status in opened(proxy) if stat.S_ISSOCK(status.st_mode)]
    assert {inode for inode in own if inode in listening} <= given
    regular = [target for target, status in opened(proxy) if stat.S_ISREG(status.st_mode)]
    assert regular == [str(sandbox.audit)]
    folders = {target for target, status in opened(proxy) if stat.S_ISDIR(status.st_mode)}
    assert folders <= set(sys.path) | {str(Path(path).resolve()) for path in sys.path}
    # Connections end with their requests; one to the host may wait for the next.
    waiting.eventually(lambda: len(opened(proxy)) <= before + 1)


def test_an_exception_is_told_by_its_type_and_place_alone() -> None:
    """K19: what it says may quote a request."""
    secret = new_token()
    try:
        raise ValueError(f"bad header {secret}")
    except ValueError as error:
        told = describe(error)
    assert secret not in told
    assert told.startswith("ValueError at test_secrecy.py:")
