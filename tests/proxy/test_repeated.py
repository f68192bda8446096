"""Requests that repeat what was said before on their connection are answered, sent on and recorded as if each
had come on a connection of its own: the fast engine, between a client and hosts that are no sockets."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Self

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsharness.audit.event import AuditEvent
from nsharness.credentials.map import CredentialMap
from nsharness.credentials.secret import Secret
from nsharness.policy.proof import VerifiedCertificate
from nsharness_proxy import http1
from nsharness_proxy.claims import Entrance
from nsharness_proxy.decision import Decision
from nsharness_proxy.fast.client import Client
from nsharness_proxy.fast.host import Host
from nsharness_proxy.fast.service import Service
from nsharness_proxy.judge import Judge, Reached
from nsharness_proxy.told import Told
from tests.proxy import test_told
from tests.proxy.rig import new_token
from tests.proxy.test_told import HEADER, HOSTS, LINES, PLACEHOLDER, SECRET, TARGETS, sandbox

Road = Literal["forward", "connect", "connect-tls", "http", "https"]

ENTRANCES: dict[Road, Entrance] = {"http": "http", "https": "https"}
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
UPSTREAMS = {
    f"{name}.local:{port}": ("127.0.0.1", 9) for name in ("api", "keys", "open") for port in (80, 443)
}
POLICIES = tuple(replace(each, upstreams=UPSTREAMS) for each in test_told.POLICIES)
SPELLINGS = ("{}", "{}:80", "{}:443", "{}.", "none.local")
BODIES = {
    b"Content-Length: 4\r\n": b"GET ",
    b"Content-Length: 40\r\n": SECRET.encode().ljust(40),
    b"Transfer-Encoding: chunked\r\n": b"4\r\nGET \r\n0\r\n\r\n",
}
BAD = (b"Content-Length: 4\r\nContent-Length: 4\r\n", b"Bad\r\n", b"X: " + b"a" * (1 << 16) + b"\r\n")


@dataclass(frozen=True)
class Request:
    """One request, or one for a tunnel, and by which of the policies it is decided on. ``names`` is how its
    target and its Host field spell the host; no target spells it in origin form."""

    method: str = "GET"
    host: str = "api.local"
    names: tuple[str, str] = ("", "{}")
    target: str = "/v1/a"
    lines: bytes = b""
    version: str = "1.1"
    rules: int = 0

    @property
    def data(self) -> bytes:
        absolute, named = (text.format(self.host) for text in self.names)
        target = self.target if not absolute else f"http://{absolute}{self.target}"
        if self.method == "CONNECT":
            target = absolute or f"{self.host}:80"
        line = f"{self.method} {target} HTTP/{self.version}\r\nHost: {named}\r\n"
        return line.encode() + self.lines + b"\r\n" + BODIES.get(self.lines, b"")


@dataclass(eq=False)
class Wire(asyncio.Transport):
    """What a connection is told; it says nothing itself."""

    address: str = "192.0.2.1"
    written: bytes = b""
    ended: bool = False

    def write(self, data: Any) -> None:
        if not self.ended:
            self.written += bytes(data)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return (self.address, 0) if name == "sockname" else default

    def close(self) -> None:
        self.ended = True

    abort = write_eof = close

    def is_closing(self) -> bool:
        return self.ended

    def can_write_eof(self) -> bool:
        return True

    def pause_reading(self) -> None:
        """Nothing is read here."""

    resume_reading = pause_reading


@dataclass
class Hosts:
    """A new connection for each request. ``sent`` is what each was told, and where it leads."""

    made: list[tuple[Reached, Host, Wire]] = field(default_factory=list)

    def take(self, made: Decision, *, again: bool) -> Host:
        view, host, wire = made.view, Host(), Wire()
        tls = view.scheme == "https"
        verified = VerifiedCertificate(view.host, "127.0.0.1") if tls else None
        host.reached = Reached(view.host, view.port, ("127.0.0.1", 9), tls, verified, made.identity, False)
        host.connection_made(wire)
        self.made.append((host.reached, host, wire))
        return host

    def give(self, host: Host, made: Decision) -> None:
        host.close()

    @property
    def sent(self) -> list[tuple[str, int, bool, bytes]]:
        return [(reached.host, reached.port, reached.tls, wire.written) for reached, _, wire in self.made]


class Connection:
    """One connection of a client."""

    def __init__(self, box: Any, road: Road) -> None:
        self.hosts = Hosts()
        self.handed: list[Any] = []
        self._road = road
        self.wire = Wire(box.names.address_of("api.local") if road in ENTRANCES else "192.0.2.1")
        entrance = ENTRANCES.get(road, "explicit")
        never: Any = None
        service = Service(box, entrance, never, self.hosts, Loud(), self._hand_over, Client)  # type: ignore[arg-type]
        self._client = Client(service)
        self._client.connection_made(self.wire)
        if road == "https":
            self._inside_tls()

    def _hand_over(self, transport: Any, data: bytes, judge: Judge, sni: str | None, *, tls: bool) -> None:
        # With all that follows.
        self.handed.append((http1.request_head(data), judge.tunnel, sni, tls))
        transport.close()

    def _inside_tls(self) -> None:
        """As after a handshake."""
        self._client._tls, self._client._sni = True, "api.local"

    async def say(self, data: bytes) -> None:
        """Send this, and read until nothing more comes of it."""
        tunnel = self._client.judge.tunnel
        if not self.wire.ended:
            self._client.data_received(data)
        for _ in range(1000):
            await asyncio.sleep(0)
            busy = [host for _, host, _ in self.hosts.made if host._asker is not None]
            if not busy:
                break
            if self._client._reader is None:
                busy[-1].data_received(ANSWER)
        if self._road == "connect-tls" and self._client.judge.tunnel is not tunnel:
            self._inside_tls()


class Loud:
    """Nothing fails."""

    def failure(self, what: str, error: BaseException) -> None:
        raise AssertionError(what) from error


@dataclass
class Outcome:
    """What came of some requests, but numbers and times."""

    answers: bytes = b""
    sent: list[Any] = field(default_factory=list)
    handed: list[Any] = field(default_factory=list)
    audit: list[Any] = field(default_factory=list)
    ended: bool = False

    def add(self, more: Self) -> None:
        self.answers += more.answers
        self.sent += more.sent
        self.handed += more.handed
        self.audit += more.audit
        self.ended = more.ended


async def together(asked: Sequence[Request], road: Road, *, piped: bool) -> Outcome:
    """On one connection; ``piped`` ones do not wait for answers, and keep to the first policy."""
    audit: list[Any] = []
    box = sandbox(audit, POLICIES[asked[0].rules])
    connection = Connection(box, road)
    if piped:
        await connection.say(b"".join(request.data for request in asked))
    for request in () if piped else asked:
        box.policy = POLICIES[request.rules]
        await connection.say(request.data)
    wire = connection.wire
    return Outcome(wire.written, connection.hosts.sent, connection.handed, audit, wire.ended)


async def apart(asked: Sequence[Request], road: Road, *, piped: bool) -> Outcome:
    """Each on a connection of its own, as far as a connection would have gone; counts go on."""
    audit: list[Any] = []
    box = sandbox(audit, POLICIES[asked[0].rules])
    total, tunnel = Outcome(), None
    for request in asked:
        box.policy = POLICIES[asked[0].rules if piped else request.rules]
        connection = Connection(box, road)
        if tunnel is not None:
            now, box.policy = box.policy, POLICIES[tunnel.rules]
            await connection.say(tunnel.data)
            box.policy = now
        audit.clear()
        connection.wire.written = b""
        await connection.say(request.data)
        wire = connection.wire
        total.add(Outcome(wire.written, connection.hosts.sent, connection.handed, [*audit], wire.ended))
        if wire.ended:
            break
        if request.method == "CONNECT" and connection._client.judge.tunnel is not None:
            tunnel = request
    return total


CHANGES: dict[str, Sequence[Any]] = {
    "method": ("GET", "GET", "POST", "HEAD", "TRACE", "get"),
    "host": HOSTS,
    "names": [(absolute, named) for absolute in ("", *SPELLINGS) for named in SPELLINGS],
    "target": TARGETS,
    "lines": (*LINES, *BODIES, *BAD),
    "version": ("1.1", "1.0"),
    "rules": range(len(POLICIES)),
}


@st.composite
def conversations(draw: st.DrawFn) -> tuple[Road, list[Request], bool]:
    """Mostly the same request, with one thing changed and changed back: what is repeated is remembered."""
    road: Road = draw(st.sampled_from(["forward", "connect", "connect-tls", "http", "https"]))
    absolute = "{}" if road in ("forward", "connect", "connect-tls") else ""
    request = Request(names=(absolute, "{}"), lines=draw(st.sampled_from(LINES)))
    request = replace(request, host=draw(st.sampled_from(HOSTS)) if absolute else "api.local")
    asked = [request]
    for _ in range(draw(st.integers(1, 8))):
        kind = draw(st.sampled_from(["same", "other", "other", "before", "tunnel"]))
        if kind == "tunnel" and road.startswith("connect"):
            port = 443 if road == "connect-tls" else 80
            names = (f"{{}}:{port}", "{}")
            asked.append(Request("CONNECT", request.host, names, rules=request.rules))
            request = replace(request, names=("", "{}"))
            kind = "same"
        if kind == "before":
            request = draw(st.sampled_from([r for r in asked if r.method != "CONNECT"]))
        if kind == "other":
            what = draw(st.sampled_from(sorted(CHANGES)))
            request = replace(request, **{what: draw(st.sampled_from(CHANGES[what]))})
        asked.append(request)
    # No client can say anything inside TLS before there is TLS.
    return road, asked, road != "connect-tls" and draw(st.booleans())


@given(conversations())
def test_nothing_comes_of_what_was_said_before(said: tuple[Road, list[Request], bool]) -> None:
    road, asked, piped = said
    one = asyncio.run(together(asked, road, piped=piped))
    assert one == asyncio.run(apart(asked, road, piped=piped))


def forgets_the_policy(monkeypatch: pytest.MonkeyPatch) -> None:
    real = Told.outgoing

    def outgoing(self: Told, allow: Any, host: str, *, websocket: bool) -> Any:
        if self._outgoing is not None:
            self._outgoing = (self._sandbox.policy, *self._outgoing[1:])
        return real(self, allow, host, websocket=websocket)

    monkeypatch.setattr(Told, "outgoing", outgoing)


def forgets_the_tunnel(monkeypatch: pytest.MonkeyPatch) -> None:
    real = Client._connect

    def connect(self: Client, head: http1.Head) -> bool:
        before = self._block, self._claims
        made = real(self, head)
        self._block, self._claims = before
        return made

    monkeypatch.setattr(Client, "_connect", connect)


def forgets_the_version(monkeypatch: pytest.MonkeyPatch) -> None:
    real = http1.request_head

    def request_head(data: bytes, last: http1.Block | None = None) -> http1.Head | None:
        head = real(data)
        same = head is not None and last is not None and last.lines == head.block.lines
        return replace(head, block=last) if same and head and last else head

    monkeypatch.setattr(http1, "request_head", request_head)


FORWARD = Request(names=("{}", "{}"))
OTHER = replace(FORWARD, host="open.local")
STRAY = replace(FORWARD, host="open.local", lines=f"X-Api-Key: {PLACEHOLDER}\r\n".encode(), rules=2)
TUNNEL = Request("CONNECT", names=("{}:80", "{}"))
WEAKENED: dict[Callable[[pytest.MonkeyPatch], None], tuple[Road, list[Request]]] = {
    # Placeholders are blocked from the second request on.
    forgets_the_policy: ("forward", [STRAY, replace(STRAY, rules=0)]),
    # In the tunnel it is for another host than the tunnel.
    forgets_the_tunnel: ("connect", [OTHER, TUNNEL, OTHER]),
    forgets_the_version: ("http", [Request(), Request(version="1.0")]),
}


@pytest.mark.parametrize("weaken", WEAKENED, ids=lambda weaken: weaken.__name__)
@pytest.mark.parametrize("weakened", [False, True], ids=["ours", "weakened"])
def test_one_that_forgets_is_found_out(
    monkeypatch: pytest.MonkeyPatch, weaken: Callable[[pytest.MonkeyPatch], None], *, weakened: bool
) -> None:
    road, asked = WEAKENED[weaken]
    expected = asyncio.run(apart(asked, road, piped=False))
    if weakened:
        weaken(monkeypatch)
    assert (asyncio.run(together(asked, road, piped=False)) != expected) is weakened


def test_the_credential_goes_where_each_request_says() -> None:
    """The host with the credential before and after one without, all of them with the same fields but for
    Host, and once more in a tunnel."""
    asked = [FORWARD, OTHER, FORWARD, TUNNEL, Request(), OTHER, Request()]
    made = asyncio.run(together(asked, "connect", piped=True))
    # In the tunnel a request in absolute form for another host is refused.
    assert [host for host, *_ in made.sent] == ["api.local", "open.local", *["api.local"] * 3]
    assert [HEADER.encode() in data for *_, data in made.sent] == [True, False, True, True, True]
    assert [each.action for each in made.audit if each.action != "response"] == [
        *("inject", "allow", "inject", "inject", "deny", "inject")
    ]


async def in_turn(tokens: Sequence[str]) -> list[tuple[list[bytes], list[AuditEvent], str]]:
    """What sandboxes send, record, and the version of their credentials, which are all that differs."""
    made = []
    for number, token in enumerate(tokens):
        audit: list[AuditEvent] = []
        box = sandbox(audit, POLICIES[0])
        box.id = f"box-{number}"
        box.credentials = CredentialMap({"api.local": {"Authorization": Secret(f"Bearer {token}")}})
        made.append((Connection(box, "forward"), audit, box.credentials.version))
    for connection, *_ in made * 3:
        await connection.say(FORWARD.data)
    return [([data for *_, data in c.hosts.sent], audit, version) for c, audit, version in made]


def test_sandboxes_of_one_process_share_nothing() -> None:
    """The same requests, in turn."""
    tokens = [new_token("hd-") for _ in range(3)]
    for number, (sent, audit, version) in enumerate(asyncio.run(in_turn(tokens))):
        assert [[token.encode() in data for token in tokens] for data in sent] == [
            [number == other for other in range(3)]
        ] * 3
        proofs = [event.proof for event in audit if event.proof is not None]
        assert [(p["sandbox"], p["secret_version"]) for p in proofs] == [(f"box-{number}", version)] * 3
