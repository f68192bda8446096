"""The first half of a client connection that mitmproxy serves: whether it may stay, and what it speaks.

Every method is called by the engine at the step that its name says.
"""

from __future__ import annotations

import re
import time
from typing import Final

from mitmproxy import http, tls
from mitmproxy.connection import Client, Connection
from mitmproxy.net.tls import starts_like_tls_record
from mitmproxy.proxy import layer
from mitmproxy.proxy.context import Context
from mitmproxy.proxy.layers import modes
from mitmproxy.proxy.layers.http import HTTPMode

from nsharness.policy.authority import Authority
from nsharness_proxy.claims import Origin
from nsharness_proxy.conversation import Http
from nsharness_proxy.judge import Judge
from nsharness_proxy.layers import Closed
from nsharness_proxy.pages import response
from nsharness_proxy.refusal import Refused
from nsharness_proxy.sandbox import Sandbox
from nsharness_proxy.secured import ClientTls
from nsharness_proxy.tunnel import Tunnel

# The beginning of a request line (RFC 9112 section 3), as far as it has come.
REQUEST_START: Final = re.compile(rb"[A-Za-z][A-Za-z-]{0,23}( |$)")
TLS_HANDSHAKE: Final = 0x16


class Door(Judge):
    """One client connection of one sandbox, up to its first request."""

    def __init__(self, sandbox: Sandbox, origin: Origin, tunnel: Authority | None = None) -> None:
        super().__init__(sandbox, origin, tunnel)
        self.passes_through = False
        """Whether it has become a tunnel that is not looked into."""
        self.owes_since: float | None = time.monotonic()
        """Since when the client owes a request, or the rest of one's head; None when it owes nothing."""
        self._layers: list[Http | Tunnel] = []

    def client_connected(self, client: Client) -> None:
        """A transparent connection leads to a name that was issued or an address that is listed, or ends."""
        if not self.arrives():
            client.error = "refused"

    def top_layer(self, context: Context) -> layer.Layer:
        """What a new connection starts with."""
        if self.origin.entrance == "explicit" and self.tunnel is None:
            return self._new_http(context, HTTPMode.regular)
        tunnel = self.tunnel
        context.server.address = (tunnel.host, tunnel.port) if tunnel else self.origin.dialled
        return modes.TransparentProxy(context)

    def next_layer(self, next_layer: layer.NextLayer) -> None:
        """TLS once, then HTTP, or TLS that is passed through; anything else ends the connection."""
        data, context = next_layer.data_client(), next_layer.context  # type: ignore[no-untyped-call]
        if not data:
            return
        if data[0] == TLS_HANDSHAKE and not context.client.tls:
            if len(data) > 2:
                tls_starts = starts_like_tls_record(data)
                next_layer.layer = self._tls(context) if tls_starts else self._closed(context)
        elif REQUEST_START.match(data):
            next_layer.layer = self._new_http(context, HTTPMode.transparent)
        else:
            next_layer.layer = self._closed(context)

    def tls_start_client(self, start: tls.TlsData) -> None:
        """The certificate is for where the connection leads, whatever the client asks for by SNI."""
        leads = self.leads_to()
        if leads is not None:
            start.ssl_conn = self.sandbox.client_tls.connection(leads.host)

    def tls_failed_client(self, failed: tls.TlsData) -> None:
        """Said at once: clients that distrust our certificate try again silently for half a minute."""
        self.handshake_failed(failed.conn.error or "", failed.conn.sni)

    @property
    def pending(self) -> int:
        """Bytes from the client that are kept in memory."""
        return sum(each.pending for each in self._layers)

    def held(self, host: Connection) -> int:
        """Bytes from a host that are kept in memory."""
        return sum(each.held(host) for each in self._layers if isinstance(each, Http))

    def _tls(self, context: Context) -> layer.Layer:
        """Passed through where policy leaves nothing to decide on inside it, and terminated anywhere else."""
        if (way := self.untouched()) is None:
            return ClientTls(context)
        self.passes_through = True
        leads, rule = way
        tunnel = Tunnel(context, self.sandbox, self.road, leads, rule, self._approve)
        self._layers.append(tunnel)
        return tunnel

    def _approve(self, leads: Authority) -> None:
        self.approved.add((leads.host, leads.port))
        self.owes_since = None

    def _begun(self) -> None:
        """A request has begun to come."""
        if self.owes_since is None:
            self.owes_since = time.monotonic()

    def _new_http(self, context: Context, mode: HTTPMode) -> Http:
        made = Http(context, mode, self.malformed, self._begun)
        self._layers.append(made)
        return made

    def _closed(self, context: Context) -> Closed:
        self.deny(self.tunnel, Refused(400, "not-http"))
        return Closed(context)

    def answer(self, flow: http.HTTPFlow, refused: Refused) -> None:
        """Answer a request with its refusal."""
        flow.response = response(refused, flow.request.method)
        if refused.status == 400:
            # Who knows what the rest of such a connection would be taken for.
            flow.response.headers["connection"] = "close"
