"""The second half of a client connection that mitmproxy serves: every request is put before the judge.

Every method is called by the engine at the step that its name says; a flow's response that is set here is
a refusal, and the engine goes no further with that request. All of them but ``ask``, which decides nothing,
run to their end without waiting for anything, so nothing can change between a decision and what follows from
it, and whatever one of them raises ends the connection.
"""

from __future__ import annotations

import asyncio
import time
import weakref
from typing import Final

from mitmproxy import http, tls
from mitmproxy.connection import Server

from nsharness.credentials.decoding import DecodingError
from nsharness.credentials.map import ClientCertificate
from nsharness.policy import headers
from nsharness.policy.asking import askable
from nsharness.policy.authority import Authority
from nsharness.policy.headers import Field
from nsharness.policy.proof import VerifiedCertificate
from nsharness_proxy import bodies, claims, refusal, scrubbing
from nsharness_proxy.claims import Named, Origin
from nsharness_proxy.codec import PROTOCOL
from nsharness_proxy.decision import ASKED, DECISION, Decision, request_facts
from nsharness_proxy.door import Door
from nsharness_proxy.host import Host
from nsharness_proxy.judge import Asked, Reached
from nsharness_proxy.layers import CUT, IDENTITY, TARGET
from nsharness_proxy.messages import FILTERS, Filters
from nsharness_proxy.pages import response
from nsharness_proxy.refusal import Refused
from nsharness_proxy.sandbox import Sandbox
from nsharness_proxy.shown import Shown

_FRAMING: Final = frozenset({b"content-length", b"transfer-encoding"})


class Guard(Door):
    """One client connection of one sandbox, with its requests."""

    def __init__(self, sandbox: Sandbox, origin: Origin, tunnel: Authority | None = None) -> None:
        super().__init__(sandbox, origin, tunnel)
        self._gone: dict[str, asyncio.Event] = {}
        self._left = False
        self._verified: weakref.WeakKeyDictionary[Server, VerifiedCertificate] = weakref.WeakKeyDictionary()

    def http_connect(self, flow: http.HTTPFlow) -> None:
        """May there be a tunnel to this host and port?"""
        fields = flow.request.headers.fields
        claimed = claims.of_connect(_text(flow.request.data.authority), headers.values(fields, b"host"))
        refused = self.enter(claimed, fields)
        if refused is not None:
            self.answer(flow, refused)
            return
        self.owes_since = time.monotonic()

    def requestheaders(self, flow: http.HTTPFlow) -> None:
        """The decision, before a name is looked up or a connection made."""
        self.owes_since = None
        if flow.error:
            self.deny(None, refusal.malformed(""), method=flow.request.method)
            return
        request = flow.request
        if request.http_version not in ("HTTP/1.0", "HTTP/1.1"):
            refused = refusal.malformed("the protocol version is neither HTTP/1.0 nor HTTP/1.1")
            self.deny(None, refused, method=request.method, answered=True)
            self.answer(flow, refused)
            return
        decided = self.decide(self._asked(flow), flow.metadata.get(ASKED))
        if isinstance(decided, Refused):
            self.answer(flow, decided)
            return
        flow.metadata[DECISION] = decided
        flow.metadata[FILTERS] = Filters(lambda: self.message_from_client(decided), self.message_from_host)
        flow.metadata[IDENTITY] = decided.identity
        self._rewrite(request, decided)

    def _asked(self, flow: http.HTTPFlow) -> Asked:
        request = flow.request
        claimed = claims.of_request(self.origin, self.sandbox.names, self.tunnel, _named(flow))
        fields = request.headers.fields
        return Asked(request.data.method, request.data.path, fields, claimed, _has_body(fields))

    @property
    def asks(self) -> bool:
        """Whether a person may be asked about unknown hosts."""
        return self.sandbox.policy.unknown == "ask"

    async def ask(self, flow: http.HTTPFlow) -> None:
        """Wait for a person's answer, if the request is one to ask about. What it was is for
        ``requestheaders`` to see, which decides afterwards as if nothing had been."""
        self.owes_since = None
        if not self.asks or flow.error or flow.request.http_version not in ("HTTP/1.0", "HTTP/1.1"):
            return
        seen = self.judge(self._asked(flow)).seen
        if seen is None or not askable(self.sandbox.policy, seen):
            return
        gone = self._gone[flow.id] = asyncio.Event()
        if self._left:
            gone.set()
        if not self.sandbox.questions.settled(seen.host):
            self.sandbox.record("ask", self.road, **request_facts(seen))
        try:
            seconds = self.sandbox.policy.ask_seconds
            flow.metadata[ASKED] = await self.sandbox.questions.answer(seen, seconds, gone)
        finally:
            del self._gone[flow.id]

    def leave(self, flow: http.HTTPFlow | None = None) -> None:
        """The client waits for the answer to a request, or to any, no more."""
        if flow is None:
            self._left = True
        for name, gone in self._gone.items():
            if flow is None or name == flow.id:
                gone.set()

    def _rewrite(self, request: http.Request, made: Decision) -> None:
        """What was checked is what is sent."""
        seen = made.view
        request.data.scheme = seen.scheme.encode("ascii")
        # Not through the properties of the same names, which would change the Host header too.
        request.data.host, request.data.port = seen.host, seen.port
        request.data.authority = b""
        request.data.path = seen.target.encode("utf-8", "surrogateescape")
        fields = made.fields
        if request.data.http_version == b"HTTP/1.0":
            # mitmproxy would say "100 Continue": its client took it for the answer (RFC 9110 section 10.1.1).
            fields = tuple(field for field in fields if field[0].lower() != b"expect")
        request.headers = http.Headers(fields)
        request.stream = made.sent

    def upstream_ready(self, flow: http.HTTPFlow) -> None:
        """The connection to the host stands, and the request has not been sent."""
        made: Decision = flow.metadata[DECISION]
        server = flow.server_conn
        host, port = server.address or ("", 0)
        peer = (server.peername[0], server.peername[1]) if server.peername else None
        identity = getattr(server, "identity", None)
        shown = isinstance(server, Host) and server.shown
        verified = self._verified.get(server)
        reached = Reached(host, port, peer, server.tls_established, verified, identity, shown)
        fields = self.ready(made, reached, flow.request.headers.fields)
        if isinstance(fields, Refused):
            self.answer(flow, fields)
            return
        flow.request.headers = http.Headers(fields)

    def tls_start_server(self, start: tls.TlsData) -> None:
        """The host's certificate is verified for the name that was decided on. Then, if it wants to see one,
        it is shown that of the rule that its first request is by."""
        server = start.conn
        assert isinstance(server, Server)
        assert server.address is not None
        host_tls, name = self.sandbox.host_tls, server.address[0]
        if not isinstance(server, Host) or server.identity is None:
            start.ssl_conn = host_tls.connection(name)
            return
        assert server.flow is not None
        made: Decision = server.flow.metadata[DECISION]
        key = (self.sandbox.credentials.version, str(made.allow.pattern))
        start.ssl_conn = host_tls.connection(name, Shown(key, lambda: self._certificate(made, server)))

    def _certificate(self, made: Decision, server: Host) -> ClientCertificate:
        """Asked on the connection to ``server``, once its certificate is verified."""
        assert server.address is not None
        assert server.peername is not None
        found = self.certificate(made, VerifiedCertificate(server.address[0], server.peername[0]))
        server.shown = True
        return found

    def tls_established_server(self, established: tls.TlsData) -> None:
        """Keep what was verified on a connection: as a proof needs it, by that very connection."""
        server = established.conn
        assert isinstance(server, Server)
        verified = established.ssl_conn is not None and established.ssl_conn.get_verified_chain()
        if verified and server.address and server.peername:
            self._verified[server] = VerifiedCertificate(server.address[0], server.peername[0])

    def responseheaders(self, flow: http.HTTPFlow) -> None:
        """Answers are passed on as they come, without the secrets in them."""
        assert flow.response is not None
        made: Decision = flow.metadata[DECISION]
        answer = flow.response
        try:
            clean = scrubbing.clean(
                self.sandbox.scrubber,
                flow.request.method,
                answer.status_code,
                answer.data.reason,
                answer.headers.fields,
                credentialed=made.allow.credentialed,
            )
        except DecodingError:
            self.end(made, "error", reason=bodies.UNDECODABLE.reason)
            flow.metadata[CUT] = True
            flow.response = response(bodies.UNDECODABLE, flow.request.method)
            return
        made.received = clean.body
        answer.data.reason = clean.reason
        answer.headers = http.Headers(clean.fields)
        answer.stream = clean.body
        if clean.decoded:
            # The length of a decoded body is not known in advance (RFC 9112 section 6).
            old = flow.request.data.http_version == b"HTTP/1.0"
            name, value = ("Connection", "close") if old else ("Transfer-Encoding", "chunked")
            answer.headers.add(name, value)
            answer.data.http_version = b"HTTP/1.1"

    def response(self, flow: http.HTTPFlow) -> None:
        """The answer has been passed on."""
        made: Decision | None = flow.metadata.get(DECISION)
        if made is not None and flow.response is not None:
            self.end(made, "response", status=flow.response.status_code)

    def error(self, flow: http.HTTPFlow) -> None:
        """An allowed request came to nothing. What it said is not repeated."""
        made: Decision | None = flow.metadata.get(DECISION)
        if made is not None:
            message = flow.error.msg if flow.error else ""
            gone = message in ("Client disconnected.", "killed")
            self.end(made, "error", reason="client-gone" if gone else refusal.upstream_reason(message))


def _named(flow: http.HTTPFlow) -> Named:
    client = flow.client_conn
    scheme, target = flow.metadata[TARGET]
    fields: tuple[Field, ...] = flow.request.headers.fields
    hosts = headers.values(fields, b"host")
    # There is no absolute form in HTTP/2, but a field for it (RFC 9113 section 8.3.1).
    pseudo, target = (target, "") if client.alpn == PROTOCOL else ("", target)
    return Named(scheme, target, pseudo, hosts, client.tls, client.sni)


def _has_body(fields: tuple[Field, ...]) -> bool:
    framing = {name: value for each, value in fields if (name := each.lower()) in _FRAMING}
    return b"transfer-encoding" in framing or framing.get(b"content-length", b"0") != b"0"


def _text(value: bytes) -> str:
    return value.decode("utf-8", "surrogateescape")
