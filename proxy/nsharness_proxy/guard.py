"""The decisions of one client connection: what the engine asks for at each step, answered.

Every method is called by the engine at the step that its name says. All of them but ``ask``, which decides
nothing, run to their end without waiting for anything, so nothing can change between a decision and what
follows from it, and whatever one of them raises ends the connection. The deciding itself is elsewhere and
pure: ``authority``, ``decide``, ``outgoing``.
"""

from __future__ import annotations

import asyncio
import time
import weakref
from typing import Any, Literal

from mitmproxy import http, tls
from mitmproxy.connection import Server

from nsharness.credentials.decoding import DecodingError
from nsharness.credentials.map import ClientCertificate
from nsharness.credentials.scrub import Scrubber
from nsharness.policy import headers
from nsharness.policy.asking import askable
from nsharness.policy.authority import Authority, Claims, Refusal, authority
from nsharness.policy.decide import Allow, Deny, body_denied, decide
from nsharness.policy.hosts import join_authority
from nsharness.policy.proof import MappedAddress, ProofError, Upstream, VerifiedCertificate
from nsharness.policy.request import DEFAULT_PORTS, RequestView, Scheme, view
from nsharness.policy.uninjected import uninjected, without_placeholder
from nsharness_proxy import bodies, claims, refusal, scrubbing, sending
from nsharness_proxy.asking import HINTS
from nsharness_proxy.bodies import Inbound, Outbound
from nsharness_proxy.claims import Origin
from nsharness_proxy.decision import ASKED, DECISION, Decision, Judged, request_facts
from nsharness_proxy.door import Door, denied_by_policy, refused_by_authority
from nsharness_proxy.host import Host
from nsharness_proxy.layers import CUT, IDENTITY
from nsharness_proxy.messages import FILTERS, Filters
from nsharness_proxy.refusal import Refused
from nsharness_proxy.sandbox import Sandbox, next_number
from nsharness_proxy.shown import Shown


class Guard(Door):
    """One client connection of one sandbox, with its requests."""

    def __init__(self, sandbox: Sandbox, origin: Origin) -> None:
        super().__init__(sandbox, origin)
        self._gone: dict[str, asyncio.Event] = {}
        self._left = False
        self._verified: weakref.WeakKeyDictionary[Server, VerifiedCertificate] = weakref.WeakKeyDictionary()

    def http_connect(self, flow: http.HTTPFlow) -> None:
        """May there be a tunnel to this host and port? Every request in it is decided anew."""
        agreed = authority(claims.of_connect(flow))
        refused = self._unidentified(flow)
        if refused is None and isinstance(agreed, Refusal):
            refused = refused_by_authority(agreed)
        if refused is None and isinstance(agreed, Authority):
            denied = self._denied(agreed)
            if denied is None:
                self.tunnel = agreed
                self.owes_since = time.monotonic()
                return
            refused = denied_by_policy(denied)
        assert refused is not None
        self.deny(flow, agreed, refused)

    def requestheaders(self, flow: http.HTTPFlow) -> None:
        """The decision, before a name is looked up or a connection made."""
        self.owes_since = None
        if flow.error:
            self.deny(None, None, refusal.malformed(""), method=flow.request.method)
            return
        judged = self._judge(flow)
        if isinstance(judged.outcome, Refused):
            path = None if judged.seen is None else judged.seen.path
            self.deny(flow, judged.agreed, judged.outcome, path=path)
            return
        assert judged.claimed is not None
        assert judged.seen is not None
        self._go_on(flow, judged.claimed, judged.seen, judged.outcome)

    @property
    def asks(self) -> bool:
        """Whether a person may be asked about unknown hosts."""
        return self.sandbox.policy.unknown == "ask"

    async def ask(self, flow: http.HTTPFlow) -> None:
        """Wait for a person's answer, if the request is one to ask about. What it was is for
        ``requestheaders`` to see, which decides afterwards as if nothing had been."""
        self.owes_since = None
        if not self.asks or flow.error:
            return
        judged = self._judge(flow)
        if judged.seen is None or not askable(self.sandbox.policy, judged.seen):
            return
        gone = self._gone[flow.id] = asyncio.Event()
        if self._left:
            gone.set()
        if not self.sandbox.questions.settled(judged.seen.host):
            self.sandbox.record("ask", self.road, **request_facts(judged.seen))
        try:
            seconds = self.sandbox.policy.ask_seconds
            flow.metadata[ASKED] = await self.sandbox.questions.answer(judged.seen, seconds, gone)
        finally:
            del self._gone[flow.id]

    def leave(self, flow: http.HTTPFlow | None = None) -> None:
        """The client waits for the answer to a request, or to any, no more."""
        if flow is None:
            self._left = True
        for name, gone in self._gone.items():
            if flow is None or name == flow.id:
                gone.set()

    def _judge(self, flow: http.HTTPFlow) -> Judged:
        """The decision on a request, without anything that follows from it."""
        refused = self._unidentified(flow) if self.road == "forward" else None
        if refused is None and flow.request.http_version not in ("HTTP/1.0", "HTTP/1.1"):
            refused = refusal.malformed("the protocol version is neither HTTP/1.0 nor HTTP/1.1")
        if refused is not None:
            return Judged(refused)
        claimed = claims.of_request(self.origin, self.sandbox.names, self.tunnel, flow)
        agreed = authority(claimed)
        if isinstance(agreed, Refusal):
            return Judged(refused_by_authority(agreed), agreed)
        request, box = flow.request, self.sandbox
        line = (request.data.method, request.data.path)
        if (refused := sending.carries_secret(box, line, request.headers.fields)) is not None:
            return Judged(refused, agreed)
        scheme: Scheme = "https" if flow.client_conn.tls else "http"
        fields = [(_text(name), _text(value)) for name, value in request.headers.fields]
        try:
            seen = view(
                _text(request.data.method), scheme, agreed.host, agreed.port, _text(request.data.path), fields
            )
        except ValueError as error:
            return Judged(refusal.malformed(str(error)), agreed)
        # Once more: taking dot segments out of a path puts together what they kept apart.
        if (refused := sending.carries_secret(box, (_bytes(seen.target),), ())) is not None:
            return Judged(refused, agreed)
        decision = decide(box.policy, seen)
        if isinstance(decision, Deny):
            refused = denied_by_policy(decision)
            why = flow.metadata.get(ASKED)
            if why and decision.reason == "host-not-allowed":
                refused = Refused(403, why, None, f"{HINTS[why]}; {decision.hint}")
            return Judged(refused, agreed, claimed, seen)
        return Judged(decision, agreed, claimed, seen)

    def _go_on(self, flow: http.HTTPFlow, claimed: Claims, seen: RequestView, decision: Allow) -> None:
        """What follows from it, for a request that is allowed."""
        request, box = flow.request, self.sandbox
        # What would follow the body, an answer's end or a message? So it is a request like any other.
        websocket = headers.is_websocket(seen.method, request.headers.fields) and not _has_body(request)
        prepared = sending.prepare(box, seen, decision, request.headers.fields, websocket=websocket)
        if isinstance(prepared, Refused):
            self.deny(flow, Authority(seen.host, seen.port), prepared, path=seen.path)
            return
        made = Decision(next_number(), claimed, seen, decision, prepared.secret, self._body(flow, decision))
        flow.metadata[DECISION] = made
        flow.metadata[FILTERS] = self._filters(flow)
        flow.metadata[IDENTITY] = made.identity
        if not made.secret and made.identity is None:
            without = uninjected(box.policy, seen, decision) or without_placeholder(decision)
            self._record(made, "allow", reason=without.reason if without else None)
        self._rewrite(request, made, prepared.fields)
        self.approved.add((seen.host, seen.port))

    def _body(self, flow: http.HTTPFlow, allow: Allow) -> Outbound:
        """How the body of an allowed request goes through."""

        def check(size: int) -> Refused | None:
            denied = body_denied(allow.rule, size)
            return denied_by_policy(denied) if denied else None

        return Outbound(
            self.sandbox.scrubber, self._stray_detector(), check, lambda refused: self._stop(flow, refused)
        )

    def _filters(self, flow: http.HTTPFlow) -> Filters:
        """How the messages of a WebSocket go through, should there be one."""
        return Filters(
            lambda: Outbound(
                self.sandbox.scrubber,
                self._stray_detector(),
                refuse=lambda refused: self._stop(flow, refused),
            ),
            lambda: Inbound(self.sandbox.scrubber),
        )

    def _stray_detector(self) -> Scrubber | None:
        blocked = self.sandbox.policy.stray_placeholders == "block"
        return self.sandbox.placeholders.detector if blocked else None

    def _stop(self, flow: http.HTTPFlow, refused: Refused) -> None:
        """Record that an allowed request is ended in the middle."""
        made: Decision = flow.metadata[DECISION]
        self._record(made, "deny", reason=refused.reason, status=refused.status)

    def _rewrite(self, request: http.Request, made: Decision, kept: list[headers.Field]) -> None:
        """What was checked is what is sent."""
        seen = made.view
        named = join_authority(seen.host, seen.port)
        if seen.port == DEFAULT_PORTS[seen.scheme]:
            named = named.removesuffix(f":{seen.port}")
        request.data.scheme = seen.scheme.encode("ascii")
        # Not through the properties of the same names, which would change the Host header too.
        request.data.host, request.data.port = seen.host, seen.port
        request.data.authority = b""
        request.data.path = _bytes(seen.target)
        request.headers = http.Headers(headers.with_host(kept, named))
        request.stream = made.sent

    def upstream_ready(self, flow: http.HTTPFlow) -> None:
        """The one place where a credential's value is read: the connection stands, is the one that was
        decided on, and is verified where it is TLS."""
        made: Decision = flow.metadata[DECISION]
        server, seen = flow.server_conn, made.view
        if server.address != (seen.host, seen.port) or server.tls_established != (seen.scheme == "https"):
            self.deny(flow, None, Refused(502, refusal.UPSTREAM_FAILED))
            return
        if getattr(server, "identity", None) != made.identity:
            # What a host was shown on a connection stays true of it, whichever rule a later request is by.
            self.deny(flow, None, Refused(502, refusal.UPSTREAM_FAILED))
            return
        if not made.secret and made.identity is None:
            return
        try:
            proof, fields = sending.fill(
                self.sandbox,
                made.claims,
                seen,
                made.allow,
                self._upstream(server, seen.scheme),
                flow.request.headers.fields,
            )
        except ProofError as error:
            reason = f"proof-{error.field.replace('_', '-')}"
            agreed = Authority(seen.host, seen.port)
            self.deny(flow, agreed, Refused(502, reason, made.allow.rule.name), path=seen.path)
            return
        shown = made.identity is None or (isinstance(server, Host) and server.shown)
        action: Literal["inject", "allow"] = "inject" if made.secret or shown else "allow"
        without = None if shown else "credential-not-requested"
        self._record(made, action, headers=made.secret, proof=proof.to_audit(), reason=without)
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
        try:
            assert server.address is not None
            assert server.peername is not None
            verified = VerifiedCertificate(server.address[0], server.peername[0])
            found = sending.certificate(self.sandbox, made.claims, made.view, verified)
            server.shown = True
            return found
        except ProofError as error:
            self._record(made, "deny", reason=f"proof-{error.field.replace('_', '-')}")
            raise

    def tls_established_server(self, established: tls.TlsData) -> None:
        """Keep what was verified on a connection: as a proof needs it, by that very connection."""
        server = established.conn
        assert isinstance(server, Server)
        verified = established.ssl_conn is not None and established.ssl_conn.get_verified_chain()
        if verified and server.address and server.peername:
            self._verified[server] = VerifiedCertificate(server.address[0], server.peername[0])

    def _upstream(self, server: Server, scheme: Scheme) -> Upstream | None:
        """What is known of the host at the other end of a connection."""
        if scheme == "https":
            return self._verified.get(server)
        return MappedAddress(server.peername[0], server.peername[1]) if server.peername else None

    def responseheaders(self, flow: http.HTTPFlow) -> None:
        """Answers are passed on as they come, without the secrets in them."""
        assert flow.response is not None
        made: Decision = flow.metadata[DECISION]
        try:
            made.received = scrubbing.clean(
                self.sandbox.scrubber,
                flow.request,
                flow.response,
                credentialed=made.allow.credentialed,
            )
        except DecodingError:
            self._end(made, "error", reason=bodies.UNDECODABLE.reason)
            flow.metadata[CUT] = True
            flow.response = bodies.UNDECODABLE.response(flow.request.method)
            return
        flow.response.stream = made.received

    def response(self, flow: http.HTTPFlow) -> None:
        """The answer has been passed on."""
        made: Decision | None = flow.metadata.get(DECISION)
        if made is not None and flow.response is not None:
            self._end(made, "response", status=flow.response.status_code)

    def error(self, flow: http.HTTPFlow) -> None:
        """An allowed request came to nothing. What it said is not repeated."""
        made: Decision | None = flow.metadata.get(DECISION)
        if made is not None:
            message = flow.error.msg if flow.error else ""
            gone = message in ("Client disconnected.", "killed")
            self._end(made, "error", reason="client-gone" if gone else refusal.upstream_reason(message))

    def _unidentified(self, flow: http.HTTPFlow) -> Refused | None:
        given = headers.values(flow.request.headers.fields, b"proxy-authorization")
        if self.sandbox.admits(given[0] if len(given) == 1 else None):
            return None
        challenge = (("proxy-authenticate", 'Basic realm="nsharness"'),)
        return Refused(407, "proxy-authentication-required", headers=challenge)

    def _record(self, made: Decision, action: Literal["allow", "inject", "deny"], **facts: Any) -> None:
        seen, rule = request_facts(made.view), made.allow.rule.name
        self.sandbox.record(action, self.road, request=made.number, rule=rule, **seen, **facts)

    def _end(self, made: Decision, action: Literal["response", "error"], **facts: Any) -> None:
        self.sandbox.record(
            action,
            self.road,
            request=made.number,
            host=made.view.host,
            sent=made.sent.count,
            received=made.received.count,
            seconds=round(time.monotonic() - made.started, 6),
            **facts,
        )


def _has_body(request: http.Request) -> bool:
    length = request.headers.get("content-length", "0")
    return length != "0" or "transfer-encoding" in request.headers


def _text(value: bytes) -> str:
    return value.decode("utf-8", "surrogateescape")


def _bytes(value: str) -> bytes:
    return value.encode("utf-8", "surrogateescape")
