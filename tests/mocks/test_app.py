"""Parts of the mocks as functions: order of event and reply, what is shown of a token, slow bodies."""

from __future__ import annotations

import asyncio
import io
import os
import string
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.types import Message, Scope

from nsharness_mocks import webhook
from nsharness_mocks.app import build_app
from nsharness_mocks.program import read_digests
from nsharness_mocks.tokens import accepted, shown
from tests.mocks.process import DIGESTS, HOOK_TOKEN, WIKI_TOKEN, sha256

visible = st.text(st.sampled_from([chr(code) for code in range(33, 127)]), min_size=1, max_size=60)


def scope(
    method: str = "GET", path: str = "/snippets/replay", host: bytes = b"wiki.local", token: str = ""
) -> Scope:
    headers = [(b"host", host), (b"authorization", f"Bearer {token}".encode())]
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode("latin-1"),
        "query_string": b"",
        "root_path": "",
        "headers": headers,
        "client": None,
        "server": None,
    }


async def drive(request: Scope, *body: Message, endless: bool = False) -> list[dict[str, Any]]:
    """Everything that the application reported and sent, in order."""
    happened: list[dict[str, Any]] = []
    pending = list(body)

    async def receive() -> Message:
        if not pending and endless:
            await asyncio.get_running_loop().create_future()
        return pending.pop(0) if pending else {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        happened.append(dict(message))

    async def report(event: dict[str, Any]) -> None:
        happened.append(event)

    await build_app(DIGESTS, report)(request, receive, send)
    return happened


async def test_the_event_comes_before_the_reply() -> None:
    happened = await drive(scope(token=WIKI_TOKEN))
    assert [step.get("event") or step["type"] for step in happened] == [
        "request",
        "http.response.start",
        "http.response.body",
    ]


async def test_nothing_that_a_terminal_obeys_or_that_is_endless_reaches_an_event() -> None:
    """K27: a log line cannot be forged by a client."""
    happened = await drive(scope("GE\x1bT", "/\x1b[2J\n[proxy] ok" + "a" * 999, b"x\x9b\r\nwiki.local"))
    event = happened[0]
    assert all(event[key].isprintable() and len(event[key]) < 300 for key in ("method", "path", "host"))
    assert event["status"] == 421


async def test_a_body_that_never_comes_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhook, "BODY_SECONDS", 0.0)
    request = scope("POST", "/webhooks/a", b"webhook.local", HOOK_TOKEN)
    happened = await drive(request, {"type": "http.request", "body": b"{", "more_body": True}, endless=True)
    assert [step["status"] for step in happened if "status" in step] == [408, 408]


async def test_a_client_that_goes_away_is_no_error_of_ours() -> None:
    request = scope("POST", "/webhooks/a", b"webhook.local", HOOK_TOKEN)
    happened = await drive(request, {"type": "http.request", "body": b"{", "more_body": True})
    assert happened[0]["status"] == 400


@given(visible, visible)
def test_exactly_the_token_is_accepted(token: str, other: str) -> None:
    assert accepted([f"Bearer {token}"], sha256(token))
    assert accepted([f"Bearer {other}"], sha256(token)) == (other == token)
    assert not accepted([token], sha256(token))
    assert not accepted([f"Bearer {token}"] * 2, sha256(token))
    assert not accepted([f"Bearer {token}"], None)


@given(visible)
def test_of_a_token_nothing_but_a_public_prefix_is_shown(token: str) -> None:
    text = shown([f"Bearer {token}"])
    assert text.startswith("Bearer ")
    assert text.endswith("…")
    part = text.removeprefix("Bearer ").removesuffix("…")
    assert part == "" or (part.endswith("_") and len(part) <= 5 and token.startswith(part))
    assert len(token) - len(part) >= 8 or not part


@pytest.mark.slow
@given(st.text(max_size=80), st.text(string.printable, max_size=80))
def test_whatever_else_is_sent_is_not_repeated(header: str, other: str) -> None:
    """A client that leaves out the scheme puts the token in its place."""
    if not header.lower().startswith("bearer"):
        assert shown([header]) == "Bearer …"
    assert shown([header, other]) == "Bearer …"


@pytest.mark.parametrize("kind", ["pipe", "memfd read to its end"])
def test_digests_come_through_a_pipe_or_a_memfd(kind: str) -> None:
    content = b'{"wiki.local": "%s"}' % (b"0" * 64)
    if kind == "pipe":
        descriptor, end = os.pipe()
        os.write(end, content)
        os.close(end)
    else:
        descriptor = os.memfd_create("tokens")
        os.write(descriptor, content)
    assert read_digests(descriptor) == {"wiki.local": "0" * 64}
    with pytest.raises(OSError, match="Bad file descriptor"):
        io.FileIO(descriptor)
