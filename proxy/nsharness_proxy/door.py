"""The first half of a client connection: where it arrived, whether it may stay, and what it speaks.

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

from nsharness.audit.event import Road
from nsharness.policy.asking import askable_host
from nsharness.policy.authority import Authority, Refusal, authority
from nsharness.policy.conditions import port_allowed
from nsharness.policy.decide import Deny, decide_host
from nsharness.policy.request import DEFAULT_PORTS
from nsharness.policy.route import Tunnel as Untouched
from nsharness.policy.route import route
from nsharness_proxy import claims, refusal
from nsharness_proxy.claims import Origin
from nsharness_proxy.conversation import Http
from nsharness_proxy.layers import Closed
from nsharness_proxy.refusal import Refused
from nsharness_proxy.sandbox import Sandbox
from nsharness_proxy.secured import ClientTls
from nsharness_proxy.tunnel import Tunnel

# The beginning of a request line (RFC 9112 section 3), as far as it has come.
_REQUEST_START: Final = re.compile(rb"[A-Za-z][A-Za-z-]{0,23}( |$)")
_TLS_HANDSHAKE: Final = 0x16
_DISTRUST: Final = ("unknown ca", "bad certificate", "certificate unknown")


class Door:
    """One client connection of one sandbox, up to its first request."""

    def __init__(self, sandbox: Sandbox, origin: Origin) -> None:
        self.sandbox = sandbox
        self.origin = origin
        self.tunnel: Authority | None = None
        """Where the CONNECT tunnel leads that this connection has become."""
        self.approved: set[tuple[str, int]] = set()
        """Host and port of everything that was allowed: nothing else is connected to."""
        self.passes_through = False
        """Whether it has become a tunnel that is not looked into."""
        self.owes_since: float | None = time.monotonic()
        """Since when the client owes a request, or the rest of one's head; None when it owes nothing."""
        self._layers: list[Http | Tunnel] = []

    def client_connected(self, client: Client) -> None:
        """A transparent connection leads to a name that was issued or an address that is listed, or ends."""
        if self.origin.entrance == "explicit":
            return
        agreed = authority(claims.of_connection(self.origin, self.sandbox.names))
        if not self.sandbox.listener_identifies:
            self.deny(None, agreed, Refused(403, "transparent-closed"))
        elif isinstance(agreed, Refusal):
            self.deny(None, agreed, refused_by_authority(agreed))
        elif isinstance(denied := self._denied(agreed), Deny):
            self.deny(None, agreed, denied_by_policy(denied))
        else:
            return
        client.error = "refused"

    def _denied(self, leads: Authority) -> Deny | None:
        """Why no request at all may go there. Where a person may be asked, the question waits for a request:
        clients have more patience for an answer than for a connection."""
        policy = self.sandbox.policy
        decision = decide_host(policy, leads.host, leads.port)
        if isinstance(decision, Deny) and not askable_host(policy, leads.host, leads.port):
            return decision
        return None

    def top_layer(self, context: Context) -> layer.Layer:
        """What a new connection starts with."""
        if self.origin.entrance == "explicit":
            return self._new_http(context, HTTPMode.regular)
        context.server.address = self.origin.dialled
        return modes.TransparentProxy(context)

    def next_layer(self, next_layer: layer.NextLayer) -> None:
        """TLS once, then HTTP, or TLS that is passed through; anything else ends the connection."""
        data, context = next_layer.data_client(), next_layer.context  # type: ignore[no-untyped-call]
        if not data:
            return
        if data[0] == _TLS_HANDSHAKE and not context.client.tls:
            if len(data) > 2:
                tls_starts = starts_like_tls_record(data)
                next_layer.layer = self._tls(context) if tls_starts else self._closed(context)
        elif _REQUEST_START.match(data):
            next_layer.layer = self._new_http(context, HTTPMode.transparent)
        else:
            next_layer.layer = self._closed(context)

    def tls_start_client(self, start: tls.TlsData) -> None:
        """The certificate is for where the connection leads, whatever the client asks for by SNI."""
        leads = self._leads_to()
        if leads is not None:
            start.ssl_conn = self.sandbox.client_tls.connection(leads.host)

    def tls_failed_client(self, failed: tls.TlsData) -> None:
        """Said at once: clients that distrust our certificate try again silently for half a minute."""
        error = failed.conn.error or ""
        reason = "client-distrusts-ca" if any(text in error for text in _DISTRUST) else "client-tls-failed"
        self.sandbox.record("error", self.road, scheme="https", host=failed.conn.sni, reason=reason)

    @property
    def pending(self) -> int:
        """Bytes from the client that are kept in memory."""
        return sum(each.pending for each in self._layers)

    def held(self, host: Connection) -> int:
        """Bytes from a host that are kept in memory."""
        return sum(each.held(host) for each in self._layers if isinstance(each, Http))

    @property
    def road(self) -> Road:
        """The way that requests take here."""
        if self.origin.entrance != "explicit":
            return "transparent"
        return "connect" if self.tunnel else "forward"

    def _leads_to(self) -> Authority | None:
        """Where the connection leads, by what its kernel or its CONNECT request said."""
        if self.origin.entrance == "explicit":
            return self.tunnel
        leads = authority(claims.of_connection(self.origin, self.sandbox.names))
        return leads if isinstance(leads, Authority) else None

    def _tls(self, context: Context) -> layer.Layer:
        """Passed through where policy leaves nothing to decide on inside it, and terminated anywhere else."""
        policy, leads = self.sandbox.policy, self._leads_to()
        if leads is None:
            return ClientTls(context)
        way = route(policy, leads.host, leads.port)
        # Which rule allows a port depends on the scheme, which only now is known.
        if not isinstance(way, Untouched) or not port_allowed(
            policy, way.rule, leads.host, leads.port, DEFAULT_PORTS["https"]
        ):
            return ClientTls(context)
        self.passes_through = True
        tunnel = Tunnel(context, self.sandbox, self.road, leads, way.rule.name, self._approve)
        self._layers.append(tunnel)
        return tunnel

    def outlived(self) -> bool:
        """Whether this is a tunnel that would not be one any more."""
        leads = self._leads_to() if self.passes_through else None
        return leads is not None and not isinstance(
            route(self.sandbox.policy, leads.host, leads.port), Untouched
        )

    def _approve(self, leads: Authority) -> None:
        self.approved.add((leads.host, leads.port))
        self.owes_since = None

    def _begun(self) -> None:
        """A request has begun to come."""
        if self.owes_since is None:
            self.owes_since = time.monotonic()

    def too_slow(self) -> None:
        """The connection ends, because its client has owed a request for too long."""
        self.sandbox.record("error", self.road, reason="client-too-slow")

    def _new_http(self, context: Context, mode: HTTPMode) -> Http:
        made = Http(context, mode, self._malformed, self._begun)
        self._layers.append(made)
        return made

    def _closed(self, context: Context) -> Closed:
        self.deny(None, self.tunnel, Refused(400, "not-http"))
        return Closed(context)

    def _malformed(self) -> None:
        self.deny(None, self.tunnel, refusal.malformed(""))

    def deny(
        self,
        flow: http.HTTPFlow | None,
        agreed: Authority | Refusal | None,
        refused: Refused,
        *,
        method: str | None = None,
        path: str | None = None,
    ) -> None:
        """Record a denial, and answer the request with it where there is one."""
        known = agreed if isinstance(agreed, Authority) else None
        self.sandbox.record(
            "deny",
            self.road,
            method=flow.request.method if flow else method,
            host=known.host if known else None,
            port=known.port if known else None,
            path=path,
            rule=refused.rule,
            reason=refused.reason,
            status=refused.status if flow else None,
        )
        if flow is not None:
            flow.response = refused.response(flow.request.method)
            if refused.status == 400:
                # Who knows what the rest of such a connection would be taken for.
                flow.response.headers["connection"] = "close"


def refused_by_authority(refused: Refusal) -> Refused:
    reason = refusal.MALFORMED if refused.status == 400 else "misdirected-request"
    return Refused(refused.status, reason, hint=refused.reason)


def denied_by_policy(denied: Deny) -> Refused:
    return Refused(denied.status, denied.reason, denied.rule, denied.hint)
