"""What is remembered of a connection's last request changes nothing: every sequence of requests on one
connection comes to what each of them comes to on a connection of its own."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsharness.audit.event import AuditEvent
from nsharness.credentials.map import CredentialMap
from nsharness.credentials.secret import Secret
from nsharness.policy.model import Policy
from nsharness.policy.units import Rate
from nsharness_proxy import claims, http1
from nsharness_proxy.claims import Named, Origin
from nsharness_proxy.judge import Asked, Judge, Reached
from nsharness_proxy.placeholders import Placeholders
from nsharness_proxy.refusal import Refused
from nsharness_proxy.sandbox import Sandbox
from nsharness_proxy.scrubbing import scrubber_for
from nsharness_proxy.told import Told
from tests.proxy.rig import new_token, policy, rule

PLACEHOLDER = "sk-nsph0123456789abcdefABCDEF"
SECRET, HEADER = new_token("sk-"), new_token("hd-")
CREDENTIALS = CredentialMap(
    {"api.local": {"Authorization": Secret(f"Bearer {HEADER}")}},
    secrets={"api.key": Secret(SECRET), "api.header": Secret(HEADER)},
    entitled={"keys.local": ["api.key"]},
)
UPSTREAMS = {f"{name}.local:80": 9 for name in ("api", "keys", "open")}
RULES = (
    policy(
        rule("api", "api.local", headers=("Authorization",), paths=("/v1/**",), max_body=10),
        rule("api-open", "api.local", paths=("/open/**",), exclusive=False),
        rule("keys", "keys.local", secrets=("api.key",), placeholders=frozenset({"header"})),
        rule("open", "open.local", methods=frozenset({"GET"})),
        upstreams=UPSTREAMS,
    ),
    policy(
        rule("api", "api.local", headers=("Authorization",), exclusive=False, rate=Rate.parse("5/h")),
        rule("open", "open.local", deny=True, paths=("/v1/**",)),
        rule("open-too", "open.local"),
        upstreams=UPSTREAMS,
        stray_placeholders="leave",
    ),
)
POLICIES = (
    *RULES,
    # The same rules, and something else that may change while a sandbox runs.
    replace(RULES[0], stray_placeholders="leave"),
)
HOSTS = ("api.local", "keys.local", "open.local", "OPEN.local", "none.local")
LINES = (
    b"",
    b"Accept: */*\r\n",
    b"accept: */*\r\n",
    b"Authorization: Bearer of-their-own\r\n",
    b"X-Api-Key: " + PLACEHOLDER.encode() + b"\r\n",
    b"X-Note: " + SECRET.encode() + b"\r\n",
    b"X-HTTP-Method-Override: DELETE\r\n",
    b"Content-Length: 4\r\n",
    b"Content-Length: 40\r\n",
    b"Expect: 100-continue\r\n",
    b"Connection: x-note\r\nX-Note: a\r\n",
    b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: a\r\n",
    b"Proxy-Authorization: Basic eDo=\r\n",
)
TARGETS = (
    "/v1/a",
    "/open/a",
    "/v1/../v2",
    "/",
    "/v1/%2e%2e/a?key=1",
    f"/v1/{PLACEHOLDER}",
    f"/v1/{SECRET[:9]}",
    f"/v1/{SECRET}",
)


@dataclass(frozen=True)
class Request:
    """One request, and by which of the policies it is decided on."""

    method: str
    host: str
    target: str
    lines: bytes
    version: str
    rules: int

    @property
    def head(self) -> bytes:
        line = f"{self.method} http://{self.host}{self.target} HTTP/{self.version}\r\nHost: {self.host}\r\n"
        return line.encode() + self.lines + b"\r\n"


requests = st.builds(
    Request,
    method=st.sampled_from(["GET", "POST", "TRACE"]),
    host=st.sampled_from(HOSTS),
    target=st.sampled_from(TARGETS),
    lines=st.sampled_from(LINES),
    version=st.sampled_from(["1.1", "1.1", "1.0"]),
    rules=st.sampled_from([0, 0, 0, 1, 2]),
)


class Connection:
    """Reads and decides as the engine does."""

    def __init__(self, sandbox: Sandbox) -> None:
        self.judge = Judge(sandbox, Origin("explicit", "192.0.2.1"))
        self._block: http1.Block | None = None

    def ask(self, request: Request) -> object:
        """Everything that comes of it, but numbers and times."""
        head = http1.request_head(request.head, self._block)
        assert head is not None
        assert replace(head, block=head.block) == http1.request_head(request.head)
        self._block = head.block
        sandbox = self.judge.sandbox
        named = Named("http", request.host, "", (request.host,))
        claimed = claims.of_request(self.judge.origin, sandbox.names, None, named)
        asked = Asked(head.method, request.target.encode(), head.fields, claimed, head.has_body)
        made = self.judge.decide(asked)
        if isinstance(made, Refused):
            return made
        seen = made.view
        reached = Reached(seen.host, seen.port, ("127.0.0.1", 9), False, None, made.identity, False)
        ready = self.judge.ready(made, reached, made.fields)
        return seen, made.allow, made.fields, made.secret, made.websocket, ready


def sandbox(told: list[Any], rules: Policy = RULES[0]) -> Sandbox:
    def write(event: AuditEvent) -> None:
        told.append(replace(event, at=0, time="", request=0, seconds=None))

    never: Any = None
    return Sandbox(
        id="one",
        policy=rules,
        credentials=CREDENTIALS,
        client_tls=never,
        client_tls_http1=never,
        host_tls=never,
        write=write,
        scrubber=scrubber_for(CREDENTIALS),
        placeholders=Placeholders({PLACEHOLDER: "api.key"}),
    )


def outcomes(asked: list[Request], *, kept: bool) -> tuple[list[object], list[Any]]:
    """On one connection, or on one for each. Counts are of the sandbox, which is one either way."""
    told: list[Any] = []
    served = sandbox(told)
    connection = Connection(served)
    found = []
    for request in asked:
        if not kept:
            connection = Connection(served)
        served.policy = POLICIES[request.rules]
        found.append(connection.ask(request))
    return found, told


@given(st.lists(requests, max_size=12))
def test_a_connection_remembers_nothing_that_matters(asked: list[Request]) -> None:
    assert outcomes(asked, kept=True) == outcomes(asked, kept=False)


ONCE = Request("GET", "api.local", "/v1/a", LINES[1], "1.1", 0)


def test_what_is_the_same_is_worked_out_once() -> None:
    connection = Connection(sandbox([]))
    first, second = connection.ask(ONCE), connection.ask(replace(ONCE, target="/v1/b"))
    assert isinstance(first, tuple)
    assert isinstance(second, tuple)
    assert first[2] is second[2]
    assert second[-1][-1] == (b"Authorization", f"Bearer {HEADER}".encode())


@pytest.mark.parametrize("weakened", [False, True], ids=["ours", "weakened"])
def test_a_memory_that_forgets_the_rule_is_found_out(
    monkeypatch: pytest.MonkeyPatch, *, weakened: bool
) -> None:
    """Two requests with the same fields, by a rule that gives them nothing, and by one that does."""
    real = Told.outgoing

    def forgetful(self: Told, allow: Any, host: str, *, websocket: bool) -> Any:
        made = real(self, allow, host, websocket=websocket) if self._outgoing is None else self._outgoing[4]
        self._outgoing = (self._sandbox.policy, allow, host, websocket, made)
        return made

    if weakened:
        monkeypatch.setattr(Told, "outgoing", forgetful)
    asked = [replace(ONCE, target="/open/a"), ONCE]
    assert (outcomes(asked, kept=True) == outcomes(asked, kept=False)) is not weakened
