"""Placeholders become their secret where a rule says so, and go nowhere else: K18."""

from __future__ import annotations

import base64
from collections.abc import Iterator

import pytest

from nsharness.credentials.map import CredentialMap
from nsharness.credentials.secret import Secret
from tests.proxy.rig import Proxy, Sandbox, new_token, policy, rule
from tests.proxy.upstreams import Upstream, ok

PLACEHOLDER = "sk-nsph0123456789abcdefABCDEF"
FOREIGN = "sk-nsphZYXWVUTSRQPONMLKJIHGFE"


@pytest.fixture(scope="module")
def secret() -> str:
    return new_token("sk-")


@pytest.fixture(scope="module")
def process(secret: str) -> Iterator[Proxy]:
    values = {"api.key": Secret(secret), "other.key": Secret(new_token("ok-"))}
    entitled = {"api.local": ["api.key"], "basic.local": ["api.key"], "other.local": ["other.key"]}
    with Proxy(CredentialMap({}, secrets=values, entitled=entitled)) as proxy:
        yield proxy


def attach(process: Proxy, sandbox: Sandbox, upstream: Upstream, stray: str = "block") -> None:
    rules = policy(
        rule("api", "api.local", secrets=("api.key",), placeholders=frozenset({"header", "basic"})),
        rule("basic", "basic.local", secrets=("api.key",), placeholders=frozenset({"basic"})),
        rule("other", "other.local", secrets=("other.key",), placeholders=frozenset({"header"})),
        rule("open", "open.local"),
        upstreams={f"{name}.local:80": upstream.port for name in ("api", "basic", "other", "open")},
        stray_placeholders=stray,
    )
    process.attach(sandbox, rules, placeholders={PLACEHOLDER: "api.key", FOREIGN: "other.key"})


@pytest.fixture
def attached(process: Proxy, sandbox: Sandbox, upstream: Upstream) -> Iterator[Sandbox]:
    process.events.clear()
    attach(process, sandbox, upstream)
    yield sandbox
    assert not [event for event in process.events if event["event"] in ("log", "fatal")]


def pair(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


@pytest.mark.parametrize(
    ("field", "sent"),
    [
        ("Authorization: Bearer {p}", "Bearer {s}"),
        ("X-Api-Key: {p}", "{s}"),
        ("X-Other: a={p};b={p}", "a={s};b={s}"),
    ],
)
def test_in_a_header_it_becomes_the_secret(
    process: Proxy, attached: Sandbox, upstream: Upstream, secret: str, field: str, sent: str
) -> None:
    assert attached.get("http://api.local/", field.format(p=PLACEHOLDER)).status == 200
    name = field.partition(":")[0]
    assert upstream.requests[0].all(name) == [sent.format(s=secret)]
    event = process.audit("inject", sandbox=attached.id)
    assert event["headers"] == [name]
    line = next(line for line in attached.log() if line["action"] == "inject")
    assert line["proof"]["secrets"] == ["api.key"]
    assert secret not in attached.audit.read_text()


@pytest.mark.parametrize("user", ["user:{}", "{}:"])
@pytest.mark.parametrize("host", ["api.local", "basic.local"])
def test_in_a_basic_pair_it_becomes_the_secret(
    attached: Sandbox, upstream: Upstream, secret: str, user: str, host: str
) -> None:
    attached.get(f"http://{host}/", f"Authorization: Basic {pair(user.format(PLACEHOLDER))}")
    assert upstream.requests[0].all("Authorization") == [f"Basic {pair(user.format(secret))}"]


@pytest.mark.parametrize(
    ("target", "fields"),
    [
        ("http://open.local/", [f"Authorization: Bearer {PLACEHOLDER}"]),
        ("http://other.local/", [f"X-Key: {PLACEHOLDER}"]),
        ("http://basic.local/", [f"X-Key: {PLACEHOLDER}"]),
        ("http://open.local/", [f"X-Key: Basic {pair('u:' + PLACEHOLDER)}"]),
        (f"http://api.local/?k={PLACEHOLDER}", []),
        (f"http://api.local/{PLACEHOLDER}", [f"X-Key: {PLACEHOLDER}"]),
        ("http://api.local/", [f"X-Key: {PLACEHOLDER} {FOREIGN}"]),
    ],
    ids=["no-credential", "other-secret", "other-place", "basic", "query", "path", "two"],
)
def test_anywhere_else_the_request_is_blocked(
    process: Proxy, attached: Sandbox, upstream: Upstream, target: str, fields: list[str]
) -> None:
    answer = attached.get(target, *fields)
    assert (answer.status, answer.reason) == (403, "placeholder-in-request")
    assert not upstream.accepted
    assert process.audit("deny", sandbox=attached.id)["reason"] == "placeholder-in-request"


def test_in_a_body_it_is_blocked(attached: Sandbox, upstream: Upstream) -> None:
    body = f'{{"key": "{PLACEHOLDER}"}}'
    head = f"POST http://api.local/ HTTP/1.1\r\nHost: api.local\r\nContent-Length: {len(body)}\r\n\r\n"
    answer = attached.exchange((head + body).encode())
    assert (answer.status, answer.reason) == (403, "placeholder-in-request")
    assert not upstream.requests


def test_it_is_left_where_the_profile_says_so(
    process: Proxy, sandbox: Sandbox, upstream: Upstream, secret: str
) -> None:
    attach(process, sandbox, upstream, "leave")
    assert sandbox.get(f"http://open.local/?{PLACEHOLDER}", f"X-Key: {PLACEHOLDER}").status == 200
    assert upstream.requests[0].all("X-Key") == [PLACEHOLDER]
    assert secret.encode() not in upstream.received


def test_the_secret_does_not_come_back_and_a_request_without_placeholder_has_none(
    process: Proxy, attached: Sandbox, upstream: Upstream, secret: str
) -> None:
    upstream.handler = lambda request: [ok(repr(request.headers).encode())]
    answer = attached.get("http://api.local/", f"X-Key: {PLACEHOLDER}")
    assert secret.encode() in upstream.received
    assert secret.encode() not in answer.body
    upstream.received.clear()
    assert attached.get("http://api.local/").status == 200
    assert secret.encode() not in upstream.received
    assert process.audit("allow", sandbox=attached.id)["rule"] == "api"


def test_a_host_that_the_map_does_not_entitle_gets_nothing(
    process: Proxy, sandbox: Sandbox, upstream: Upstream
) -> None:
    """The map and the policy come by different ways."""
    rules = policy(
        rule("open", "open.local", secrets=("api.key",), placeholders=frozenset({"header"})),
        upstreams={"open.local:80": upstream.port},
    )
    process.attach(sandbox, rules, placeholders={PLACEHOLDER: "api.key"})
    answer = sandbox.get("http://open.local/", f"X-Key: {PLACEHOLDER}")
    assert (answer.status, answer.reason) == (502, "proof-secrets")
    assert not upstream.requests
