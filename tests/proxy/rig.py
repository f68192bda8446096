"""The proxy process as the supervisor starts it, sandboxes attached to it, and clients of theirs."""

from __future__ import annotations

import functools
import http.client
import json
import os
import secrets
import select
import signal
import socket
import ssl
import string
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import nsharness_proxy
from nsharness.credentials.build import CredentialMap
from nsharness.credentials.secret import Secret
from nsharness.linux import fds
from nsharness.policy.hosts import HostPattern
from nsharness.policy.model import Policy, Rule
from nsharness.policy.paths import PathGlob

DEADLINE = 10.0
UNPRIVILEGED = 65534
AUTHORITY = "tests"
_LETTERS = string.ascii_letters + string.digits


def new_token(prefix: str = "wiki_") -> str:
    """A secret that occurs nowhere else."""
    return prefix + "".join(secrets.choice(_LETTERS) for _ in range(32))


def rule(
    name: str,
    *hosts: str,
    headers: Iterable[str] = (),
    methods: Iterable[str] | None = None,
    paths: Iterable[str] | None = None,
    ports: Iterable[int] | None = None,
    **more: Any,
) -> Rule:
    return Rule(
        name,
        tuple(HostPattern.parse(host) for host in hosts),
        tuple(headers),
        None if methods is None else frozenset(methods),
        None if paths is None else tuple(PathGlob.parse(path) for path in paths),
        None if ports is None else frozenset(ports),
        **more,
    )


def policy(*rules: Rule, upstreams: Mapping[str, int] | None = None, **more: Any) -> Policy:
    """A policy whose upstreams are mapped to loopback ports."""
    mapped = {authority: ("127.0.0.1", port) for authority, port in (upstreams or {}).items()}
    return Policy("test", rules, mapped, **{"engine": engine(), **more})


def engine() -> Any:
    """The engine that tests are about: see ``--engine``."""
    return os.environ.get("NSHARNESS_TEST_ENGINE", "fast")


def credential_map(values: Mapping[str, Mapping[str, str]]) -> CredentialMap:
    return CredentialMap(
        {host: {name: Secret(value) for name, value in headers.items()} for host, headers in values.items()}
    )


@functools.cache
def command() -> tuple[str, ...]:
    """How this interpreter starts the proxy: as installed, or from where this process imports it."""
    here = Path(nsharness_proxy.__file__)
    program = "import nsharness_proxy; print(nsharness_proxy.__file__)"
    installed = subprocess.run([sys.executable, "-I", "-c", program], capture_output=True, text=True)
    if installed.returncode == 0 and here.samefile(installed.stdout.strip()):
        return sys.executable, "-I", "-m", "nsharness_proxy"
    root = Path(__file__).resolve().parents[2]
    program = (
        "import runpy, sys\n"
        f"sys.path[:0] = {[str(root), str(root / 'proxy')]!r}\n"
        "runpy.run_module('nsharness_proxy', run_name='__main__')\n"
    )
    return sys.executable, "-I", "-c", program


def command_with(changed: str) -> tuple[str, ...]:
    """The same, after these statements."""
    *start, program = command()
    if "runpy" not in program:
        program = "import runpy\nrunpy.run_module('nsharness_proxy', run_name='__main__')"
    program, _, run = program.rpartition("runpy.run_module")
    return *start[:2], "-c", f"{program}\n{changed}\nrunpy.run_module{run}"


@dataclass(frozen=True, slots=True)
class Answer:
    """What a client got."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def reason(self) -> str | None:
        """Why the proxy refused, if it did."""
        return self.headers.get("x-nsharness-reason")


@dataclass
class Sandbox:
    """A sandbox's three entrances and its resolver, on loopback or in a gateway."""

    id: str
    sockets: tuple[socket.socket, ...]
    audit: Path

    @classmethod
    def on_loopback(cls, name: str, folder: Path) -> Self:
        tcp = [socket.create_server(("127.0.0.1", 0)) for _ in range(3)]
        # As in a gateway, the resolver is at every address of the network.
        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        udp.bind(("0.0.0.0", 0))
        return cls(name, (*tcp, udp, socket.create_server(("0.0.0.0", 0))), folder / f"{name}.jsonl")

    def address(self, entrance: str) -> tuple[str, int]:
        number = ("http", "https", "explicit", "dns-udp", "dns-tcp").index(entrance)
        host, port = self.sockets[number].getsockname()
        return ("127.0.0.1" if host == "0.0.0.0" else host), port

    def connect(self, entrance: str = "explicit") -> socket.socket:
        """A client connection; the caller closes it."""
        return socket.create_connection(self.address(entrance), DEADLINE)

    def exchange(self, raw: bytes, entrance: str = "explicit", method: str = "GET") -> Answer:
        """Send bytes on a connection of their own and read one answer."""
        with self.connect(entrance) as client:
            client.sendall(raw)
            return read_answer(client, method)

    def get(self, url: str, *headers: str, host: str | None = None, method: str = "GET") -> Answer:
        """A request in absolute form at the explicit proxy."""
        named = url.split("/")[2] if host is None else host
        lines = [f"{method} {url} HTTP/1.1", f"Host: {named}", *headers, "", ""]
        return self.exchange("\r\n".join(lines).encode(), method=method)

    def everything(self, raw: bytes, entrance: str = "explicit") -> bytes:
        """Send bytes and read until the other side closes."""
        with self.connect(entrance) as client:
            client.sendall(raw)
            return read_to_end(client)

    def log(self) -> list[dict[str, Any]]:
        """The audit log; of a line that is just being written nothing."""
        return [json.loads(line) for line in self.audit.read_text().rpartition("\n")[0].splitlines()]

    def close(self) -> None:
        for sock in self.sockets:
            sock.close()


def read_to_end(client: socket.socket) -> bytes:
    data = b""
    try:
        while piece := client.recv(1 << 16):
            data += piece
    except ConnectionResetError:
        pass
    return data


def read_answer(client: socket.socket, method: str = "GET") -> Answer:
    """One answer from a connection that stays usable after it."""
    response = http.client.HTTPResponse(client, method=method)
    try:
        response.begin()
        headers = {name.lower(): value for name, value in response.getheaders()}
        tunnel_stands = method == "CONNECT" and response.status == 200
        return Answer(response.status, headers, b"" if tunnel_stands else response.read())
    finally:
        response.close()


def tunnel(client: socket.socket, target: str, *headers: str) -> Answer:
    """Ask for a CONNECT tunnel; on 200 the connection is the tunnel."""
    client.sendall("\r\n".join([f"CONNECT {target} HTTP/1.1", f"Host: {target}", *headers, "", ""]).encode())
    return read_answer(client, "CONNECT")


@dataclass
class Proxy:
    """One proxy process. Events are collected from its first moment on."""

    credentials: CredentialMap
    ca_fd: int | None = None
    sealed_map: int | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    events: list[dict[str, Any]] = field(default_factory=list)
    output: Path | None = None
    start: dict[str, Any] | None = None
    changed: str = ""
    """Statements that are run in its process before it starts, where a test cannot wait as long."""

    def __enter__(self) -> Self:
        ours, theirs = fds.message_pair()
        own_map = fds.memfd("map", self.credentials.to_bytes()) if self.sealed_map is None else None
        descriptor = self.sealed_map if own_map is None else own_map
        assert descriptor is not None
        passed = [theirs.fileno(), descriptor]
        arguments = ["--control-fd", str(theirs.fileno()), "--credentials-fd", str(descriptor)]
        output = None if self.output is None else self.output.open("wb")
        self.process = subprocess.Popen(
            [*(command_with(self.changed) if self.changed else command()), *arguments],
            pass_fds=passed,
            env=dict(self.environment),
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
        self.pid = self.process.pid
        theirs.close()
        if own_map is not None:
            os.close(own_map)
        if output is not None:
            output.close()
        self.control = ours
        self._changed = threading.Condition()
        self._ended = False
        self._ca = ""
        self._listening = threading.Event()
        self._listening.set()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        # One authority for all sandboxes, and for any host: most tests are about other things.
        key = fds.memfd("key") if self.ca_fd is None else self.ca_fd
        self.send({"op": "authority", "name": AUTHORITY, "policy": None}, (key,))
        if self.ca_fd is None:
            os.close(key)
        drop = UNPRIVILEGED if os.geteuid() == 0 else None
        self.send(self.start or {"op": "start", "uid": drop, "gid": drop})
        return self

    def __exit__(self, *_: object) -> None:
        self.hang_up()
        try:
            self.process.wait(DEADLINE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise
        finally:
            self._reader.join(DEADLINE)
            self.control.close()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Within the block nobody reads events."""
        self._listening.clear()
        # One more message is taken by the call that waits already.
        yield
        self._listening.set()

    def hang_up(self) -> None:
        """The end of the control connection, as when the supervisor dies."""
        try:
            self.control.shutdown(socket.SHUT_WR)
        except OSError:
            return

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(DEADLINE)

    def _read(self) -> None:
        while True:
            self._listening.wait()
            try:
                message, _ = fds.receive(self.control)
            except OSError:
                message = None
            with self._changed:
                if message is None:
                    self._ended = True
                elif message["event"] == "audits":
                    self.events += [{"event": "audit", **line} for line in message["lines"]]
                else:
                    self.events.append(message)
                self._changed.notify_all()
                if message is None:
                    return

    def send(self, message: dict[str, Any], descriptors: Iterable[int] = ()) -> None:
        fds.send(self.control, message, tuple(descriptors))

    def wait_for(
        self, predicate: Callable[[dict[str, Any]], bool], timeout: float = DEADLINE
    ) -> dict[str, Any]:
        """The first event that the predicate is true of."""
        with self._changed:
            found: list[dict[str, Any]] = []

            def come() -> bool:
                found[:] = filter(predicate, self.events)
                return bool(found) or self._ended

            self._changed.wait_for(come, timeout)
            assert found, f"no such event among {[str(event)[:300] for event in self.events[-10:]]}"
            return found[0]

    def event(self, name: str, /, timeout: float = DEADLINE, **facts: Any) -> dict[str, Any]:
        """The first event with this name and these values."""
        wanted = {"event": name, **facts}.items()
        return self.wait_for(lambda event: wanted <= {**event, "headers": None}.items(), timeout)

    def names(self, sandbox: str) -> list[str]:
        """The names that have addresses, as far as it has told."""
        known: list[str] = []
        with self._changed:
            for event in self.events:
                if event["event"] == "names" and event["sandbox"] == sandbox:
                    known[event["at"] :] = event["names"]["names"]
        return known

    def audit(self, action: str, **facts: Any) -> dict[str, Any]:
        return self.event("audit", action=action, **facts)

    @property
    def ca(self) -> str:
        """The certificate of its authority."""
        if not self._ca:
            self._ca = self.event("ca", name=AUTHORITY)["pem"]
        return self._ca

    def trust(self) -> ssl.SSLContext:
        """A client's TLS settings that trust this proxy's authority and no other."""
        context = ssl.create_default_context(cadata=self.ca)
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        return context

    def attach(self, sandbox: Sandbox, rules: Policy, *extra: int, **more: Any) -> None:
        """Attach and wait until it is served."""
        log = os.open(sandbox.audit, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            message = {
                "op": "attach",
                "sandbox": sandbox.id,
                "policy": rules.to_json(),
                "bearer": None,
                "authority": AUTHORITY,
                **more,
            }
            self.send(message, (*(s.fileno() for s in sandbox.sockets), log, *extra))
        finally:
            os.close(log)
        answer = self.wait_for(
            lambda event: event.get("sandbox") == sandbox.id and event["event"] in ("attached", "error")
        )
        assert answer["event"] == "attached", answer

    def memory(self) -> int:
        """Resident bytes now."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0]) * 1024


def closed_within(client: socket.socket, seconds: float = DEADLINE) -> float:
    """How long it takes until the other side closes; AssertionError if it does not."""
    start = time.monotonic()
    while True:
        ready, _, _ = select.select([client], [], [], max(0.0, start + seconds - time.monotonic()))
        assert ready, f"still open after {seconds} s"
        try:
            if not client.recv(1 << 16):
                break
        except ConnectionResetError:
            break
    return time.monotonic() - start
