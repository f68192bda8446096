"""mitmproxy at work: everything of it that is used here, behind one door.

Only its protocol layers and its connection handling are used. Its ``Master`` is not: importing that takes as
long as all the rest, because it brings every addon with it, and flow store, commands, scripts and web pages
are just what must not be here.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from typing import Any, Final

from mitmproxy import ctx, options

from nsharness_proxy.claims import Entrance
from nsharness_proxy.connection import Connection
from nsharness_proxy.guard import Guard
from nsharness_proxy.judge import Judge
from nsharness_proxy.listener import Listener, SandboxMode
from nsharness_proxy.report import Report
from nsharness_proxy.sandbox import Sandbox
from nsharness_proxy.tls import PROTOCOL

# Engine options that some addon of its own would define.
_SETTINGS: Final[dict[str, tuple[Any, Any]]] = {
    "connection_strategy": (str, "lazy"),  # Nothing is looked up or connected to before the decision.
    "validate_inbound_headers": (bool, True),
    "normalize_outbound_headers": (bool, True),
    "store_streamed_bodies": (bool, False),
    "stream_large_bodies": (str | None, None),
    "body_size_limit": (str | None, None),
    "keep_host_header": (bool, True),
    "proxy_debug": (bool, False),
}


class Mitm:
    """Serves listeners, and connections that somebody else has begun."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._settings = engine_options()

    def listener(
        self, sandbox: Sandbox, entrance: Entrance, sock: socket.socket, entry: ssl.SSLContext | None
    ) -> Listener:
        """Serves a passed socket; ``entry`` is the TLS in which clients show the sandbox's certificate."""
        return Listener(sandbox, entrance, sock, self._settings, self._report, entry=entry)

    def connection(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, judge: Judge
    ) -> Connection:
        """Goes on with a connection that is as ``judge`` knows it."""
        box = judge.sandbox
        mode = SandboxMode(f"sandbox:{box.id}:handed-over", box.id, None, None)
        guard = Guard(box, judge.origin, judge.tunnel)
        return Connection(reader, writer, self._settings, mode, guard, self._report)

    def inside_tls(self, connection: Connection, sni: str | None) -> None:
        """Say of a connection that it is inside TLS already, in whose handshake the client named ``sni``."""
        client = connection.client
        client.tls, client.sni, client.alpn = True, sni, PROTOCOL


def engine_options() -> options.Options:
    """The engine's settings. It reads no configuration, and has no folder to write to."""
    settings = options.Options()
    for name, (kind, value) in _SETTINGS.items():
        settings.add_option(name, kind, value, "")
    settings.update(  # type: ignore[no-untyped-call]
        confdir="/nonexistent",
        server=False,
        mode=[],
        http2=False,
        http3=False,
        rawtcp=False,
        websocket=True,
        showhost=False,
        upstream_cert=False,
    )
    ctx.options = settings
    return settings
