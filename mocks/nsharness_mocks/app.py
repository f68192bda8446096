"""One port, many hosts: the Host header picks the service, and every request is reported once."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from nsharness_mocks import webhook, wiki
from nsharness_mocks.replies import problem
from nsharness_mocks.tokens import shown

HOSTS: Final = (webhook.HOST, wiki.HOST)

type Report = Callable[[dict[str, Any]], Awaitable[None]]
"""Takes one event; awaited before the reply goes out, so an observer never learns of a reply too late."""

_LONGEST_SHOWN: Final = 256


def build_app(digests: Mapping[str, str], report: Report) -> ASGIApp:
    """The application. ``digests``: host to SHA-256 (hex) of its token; without one a host lets nobody in."""
    services: dict[str, ASGIApp] = {
        wiki.HOST: wiki.wiki(digests.get(wiki.HOST)),
        webhook.HOST: webhook.webhook(digests.get(webhook.HOST)),
    }

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise RuntimeError(f"the mocks speak HTTP only, not {scope['type']}")
        headers = Headers(scope=scope)
        host = _host(headers.get("host", ""))

        async def report_then_send(message: Message) -> None:
            if message["type"] == "http.response.start":
                await report(
                    {
                        "event": "request",
                        "at": time.monotonic_ns(),
                        "method": _printable(scope["method"]),
                        # As it was sent, so that nothing decoded reaches a terminal; without the query.
                        "path": _printable(scope["raw_path"].decode("latin-1")),
                        "host": _printable(host),
                        "auth": shown(headers.getlist("authorization")),
                        "status": message["status"],
                    }
                )
            await send(message)

        service = services.get(host) or problem(421, "misdirected_request", f"hosts here: {', '.join(HOSTS)}")
        await service(scope, receive, report_then_send)

    return app


def _host(header: str) -> str:
    """The name in a Host header: without port, without one trailing dot, lower-case."""
    name, colon, port = header.rpartition(":")
    if not colon or not (port.isascii() and port.isdigit()):
        name = header
    return name.lower().removesuffix(".")


def _printable(text: str) -> str:
    """Text from a client as it may stand in a log: one line, bounded, nothing a terminal obeys."""
    text = "".join(character if character.isprintable() else "?" for character in text)
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}…"
