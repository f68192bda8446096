"""Conversations of a client with the proxy, byte by byte, and what must be true after each of them."""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from nsharness.linux import fds
from nsharness.policy.paths import join_target, split_target
from tests.proxy import reference
from tests.proxy.corpus import DIALLED, HOST, Case
from tests.proxy.recorder import DEADLINE, Recorder, named
from tests.proxy.reference import Message
from tests.proxy.rig import Proxy, Sandbox, credential_map, policy, rule, tunnel

CORPUS = Path(__file__).with_name("data") / "smuggling.txt"
OPEN, DENIED = "open.test", "evil.test"
METHODS = ("GET", "HEAD", "POST", "PUT", "OPTIONS")

END = f"GET http://{HOST}/ok/end HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode()
"""The request after each case: it is served where the connection is still in step."""
_BARRIER = f"GET http://{DENIED}/ HTTP/1.1\r\nHost: {DENIED}\r\n\r\n".encode()


@dataclass(frozen=True, slots=True)
class Seen:
    """What came of a conversation. ``hosts`` has the bytes of each connection to a host, ``events`` the audit
    log, ``stalled`` that the proxy waited for more from the client."""

    answer: bytes
    hosts: list[bytes]
    events: list[dict[str, Any]]
    stalled: bool

    @property
    def requests(self) -> list[Message]:
        """The requests that reached a host, in full or in part; both readers must agree on each."""
        found: list[Message] = []
        for data in self.hosts:
            ours, theirs = reference.by_h11(data), reference.by_llhttp(data)
            assert (ours.error, theirs.error) == ("", ""), data
            assert [m.meaning for m in ours.messages] == [m.meaning for m in theirs.messages], data
            found += ours.messages
        return found


class Stage:
    """A sandbox, the hosts that it may talk to, and a client that says what it is told to.

    ``docs.test`` has a credential, and rules for methods and paths; ``open.test`` has neither.
    """

    def __init__(self, proxy: Proxy, folder: Path, token: str, engine: str | None = None) -> None:
        """``engine`` is what moves the bytes, instead of what all tests are about."""
        self.token = token
        self._engine = {} if engine is None else {"engine": engine}
        self.recorder = Recorder()
        self._proxy = proxy
        self.sandbox = Sandbox.on_loopback(f"stage-{folder.name}", folder)
        self._events = 0
        self._barrier: socket.socket | None = None

    def __enter__(self) -> Self:
        self.recorder.__enter__()
        header = {"Authorization": f"Bearer {self.token}"}
        values = credential_map({HOST: header, DIALLED: header})
        rules = policy(
            rule("docs", HOST, DIALLED, headers=header, methods=METHODS, paths=["/ok/**"]),
            rule("open", OPEN),
            upstreams={f"{name}:80": self.recorder.port for name in (HOST, DIALLED, OPEN)},
            **self._engine,
        )
        descriptor = fds.memfd("map", values.to_bytes())
        try:
            self._proxy.attach(self.sandbox, rules, descriptor)
        finally:
            os.close(descriptor)
        return self

    def __exit__(self, *_: object) -> None:
        if self._barrier is not None:
            self._barrier.close()
        self._proxy.send({"op": "detach", "sandbox": self.sandbox.id})
        self._proxy.event("detached", sandbox=self.sandbox.id)
        self.sandbox.close()
        self.recorder.__exit__()

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Within the block the proxy fails nowhere. Hosts answer in the usual way at its beginning."""
        self.recorder.answer = named
        self.recorder.forget()
        self._proxy.events.clear()
        yield
        assert self._proxy.process.poll() is None
        assert [event for event in self._proxy.events if event["event"] in ("log", "fatal")] == []

    @contextlib.contextmanager
    def connected(self, road: str) -> Iterator[socket.socket]:
        """A client connection on which requests to the host of the corpus may be made."""
        with self.sandbox.connect("http" if road == "transparent" else "explicit") as client:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if road == "tunnel":
                assert tunnel(client, f"{HOST}:80").status == 200
            yield client

    def talk(self, pieces: Sequence[bytes], road: str, *, patience: float = DEADLINE) -> Seen:
        """Send the pieces, each read by the proxy before the next is sent, and read until the proxy closes
        or the last request is answered. After ``patience`` seconds without a word the client gives up."""
        ending = b"\r\n\r\nGET /ok/end"
        with self.connected(road) as client:
            for number, piece in enumerate(pieces):
                if number:
                    self.barrier()
                try:
                    client.sendall(piece)
                except (BrokenPipeError, ConnectionResetError):
                    break
            answer, stalled = b"", False
            while not answer.endswith(ending):
                if not stalled and not select.select([client], [], [], patience)[0]:
                    stalled = True
                    client.settimeout(patience)
                    with contextlib.suppress(OSError):
                        client.shutdown(socket.SHUT_WR)
                try:
                    data = client.recv(1 << 16)
                except ConnectionResetError:
                    break
                if not data:
                    break
                answer += data
        hosts = self.recorder.settle(patience)
        self.recorder.forget()
        return Seen(answer, hosts, self._new_events(), stalled)

    def _new_events(self) -> list[dict[str, Any]]:
        with self.sandbox.audit.open("rb") as log:
            log.seek(self._events)
            lines = log.readlines()
            self._events = log.tell()
        return [json.loads(line) for line in lines]

    def barrier(self) -> None:
        """Return when the proxy has read everything that was sent so far: it reads its connections in turn,
        and this one is answered without asking anybody."""
        if self._barrier is None:
            self._barrier = self.sandbox.connect()
        self._barrier.sendall(_BARRIER)
        data = b""
        while not data.endswith(b"}\n"):
            piece = self._barrier.recv(1 << 16)
            assert piece
            data += piece

    def check(self, seen: Seen) -> None:
        """What must be true whatever was sent: nothing reached a host that was not decided on, and nothing
        carried the credential that was not to."""
        sent = Counter(self._decision(request) for request in seen.requests)
        decided = Counter(
            (e["method"], e["host"], e["path"], e["action"])
            for e in seen.events
            if e["action"] in ("allow", "inject")
        )
        assert sent <= decided
        for method, host, path, action in sent:
            assert host in (HOST, DIALLED, OPEN)
            if host != OPEN:
                assert (action, method in METHODS, path.startswith("/ok/")) == ("inject", True, True)
        shown = sum(data.count(self.token.encode()) for data in seen.hosts)
        assert shown <= sum(number for decision, number in decided.items() if decision[3] == "inject")
        assert self.token.encode() not in seen.answer

    def _decision(self, request: Message) -> tuple[str, str, str, str]:
        (host,) = request.hosts
        carried = [value for name, value in request.fields if self.token in value]
        assert carried in ([], [f"Bearer {self.token}"])
        assert [v for n, v in request.fields if n == "authorization"] == carried
        assert host == OPEN or carried
        return request.method, host, request.target.partition("?")[0], "inject" if carried else "allow"


def on_road(data: bytes, road: str) -> bytes:
    """The same for the host that is on this road: its name is as long."""
    return data.replace(HOST.encode(), DIALLED.encode()) if road == "transparent" else data


def on_the_way(case: Case, road: str) -> list[bytes]:
    """What a client sends for a case, and the request after it."""
    *pieces, last = case.pieces
    return [on_road(piece, road) for piece in (*pieces, last + END)]


def forwarded(request: Message) -> Message | None:
    """The request to a host that a client's request becomes; None where it can become none."""
    scheme, separator, rest = request.target.partition("://")
    target = request.target
    if separator and "/" not in scheme:
        target = "/" + rest.partition("/")[2]
    try:
        path, query = split_target(target.encode("latin-1").decode("utf-8", "surrogateescape"))
    except ValueError:
        return None
    raw = join_target(path, query).encode("utf-8", "surrogateescape").decode("latin-1")
    return Message(request.method, raw, request.fields, request.body, request.complete)


def in_order(
    needles: Sequence[Message], hay: Sequence[Message], same: Callable[[Message, Message], bool]
) -> bool:
    """Whether all of the first occur among the second, in the same order."""
    rest = iter(hay)
    return all(any(same(needle, straw) for straw in rest) for needle in needles)
