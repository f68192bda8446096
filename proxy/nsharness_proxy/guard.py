"""The decisions of one client connection: what the engine asks for at each step, answered.

Every method is called by the engine at the step that its name says. All of them run to their end
without waiting for anything, so nothing can change between a decision and what follows from it, and
whatever one of them raises ends the connection. The deciding itself is elsewhere and pure:
``authority``, ``decide``, ``outgoing``.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from mitmproxy import http

from nsharness.credentials.secret import Secret
from nsharness.policy.authority import Authority, Refusal, authority
from nsharness.policy.decide import Allow, Deny, decide, decide_host
from nsharness.policy.hosts import join_authority
from nsharness.policy.request import DEFAULT_PORTS, RequestView, Scheme, view
from nsharness_proxy import claims, headers, refusal
from nsharness_proxy.claims import Origin
from nsharness_proxy.door import Door, denied_by_policy, refused_by_authority
from nsharness_proxy.refusal import Refused
from nsharness_proxy.sandbox import Sandbox, next_number

DECISION: Final = "decision"
"""Key in a flow's metadata."""


class Meter:
    """Passes a body on, chunk by chunk as it comes, and counts it."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, chunk: bytes) -> bytes:
        self.count += len(chunk)
        return chunk


@dataclass(slots=True)
class Decision:
    """What was decided on a request, and how it went on."""

    number: int
    view: RequestView
    allow: Allow
    websocket: bool
    started: float = field(default_factory=time.monotonic)
    sent: Meter = field(default_factory=Meter)
    received: Meter = field(default_factory=Meter)


class Guard(Door):
    """One client connection of one sandbox, with its requests."""

    def __init__(self, sandbox: Sandbox, origin: Origin) -> None:
        super().__init__(sandbox, origin)
        self.approved: set[tuple[str, int]] = set()
        """Host and port of every request that was allowed: nothing else is connected to."""

    def http_connect(self, flow: http.HTTPFlow) -> None:
        """May there be a tunnel to this host and port? Every request in it is decided anew."""
        agreed = authority(claims.of_connect(flow))
        refused = self._unidentified(flow)
        if refused is None and isinstance(agreed, Refusal):
            refused = refused_by_authority(agreed)
        if refused is None and _has_body(flow.request):
            refused = refusal.malformed("a CONNECT request has no body")
        if refused is None and isinstance(agreed, Authority):
            decision = decide_host(self.sandbox.policy, agreed.host, agreed.port)
            if isinstance(decision, Allow):
                self.tunnel = agreed
                return
            refused = denied_by_policy(decision)
        assert refused is not None
        self.deny(flow, agreed, refused)

    def requestheaders(self, flow: http.HTTPFlow) -> None:
        """The decision, before a name is looked up or a connection made."""
        if flow.error:
            self.deny(None, None, refusal.malformed(""), method=flow.request.method)
            return
        agreed: Authority | Refusal | None = None
        refused = self._unidentified(flow) if self.road == "forward" else None
        if refused is None and flow.request.http_version not in ("HTTP/1.0", "HTTP/1.1"):
            refused = refusal.malformed("the protocol version is neither HTTP/1.0 nor HTTP/1.1")
        if refused is None:
            agreed = authority(claims.of_request(self.origin, self.sandbox.names, self.tunnel, flow))
            if isinstance(agreed, Refusal):
                refused = refused_by_authority(agreed)
        if refused is not None or not isinstance(agreed, Authority):
            assert refused is not None
            self.deny(flow, agreed, refused)
            return
        self._decide(flow, agreed)

    def _decide(self, flow: http.HTTPFlow, agreed: Authority) -> None:
        request = flow.request
        scheme: Scheme = "https" if flow.client_conn.tls else "http"
        fields = [(_text(name), _text(value)) for name, value in request.headers.fields]
        try:
            seen = view(
                _text(request.data.method), scheme, agreed.host, agreed.port, _text(request.data.path), fields
            )
        except ValueError as error:
            self.deny(flow, agreed, refusal.malformed(str(error)))
            return
        decision = decide(self.sandbox.policy, seen)
        if isinstance(decision, Deny):
            self.deny(flow, agreed, denied_by_policy(decision), path=seen.path)
            return
        if any(self._value(decision, name) is None for name in decision.inject):
            # Rather no request than one without the credential that the profile promises.
            self.deny(flow, agreed, Refused(502, "credential-missing", decision.rule.name), path=seen.path)
            return
        websocket = headers.is_websocket(seen.method, request.headers.fields)
        made = flow.metadata[DECISION] = Decision(next_number(), seen, decision, websocket)
        if not decision.inject:
            self._record(made, "allow")
        self._rewrite(request, made)
        self.approved.add((seen.host, seen.port))

    def _rewrite(self, request: http.Request, made: Decision) -> None:
        """What was checked is what is sent."""
        seen = made.view
        named = join_authority(seen.host, seen.port)
        if seen.port == DEFAULT_PORTS[seen.scheme]:
            named = named.removesuffix(f":{seen.port}")
        request.data.scheme = seen.scheme.encode("ascii")
        # Not through the properties of the same names, which would change the Host header too.
        request.data.host, request.data.port = seen.host, seen.port
        request.data.authority = b""
        request.data.path = seen.target.encode("utf-8", "surrogateescape")
        kept = headers.outgoing(request.headers.fields, made.allow.inject, websocket=made.websocket)
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
        if made.allow.inject:
            self._record(made, "inject", headers=made.allow.inject)
        for name in made.allow.inject:
            value = self._value(made.allow, name)
            assert value is not None
            flow.request.headers.add(name, value.reveal())

    def responseheaders(self, flow: http.HTTPFlow) -> None:
        """Answers are passed on as they come."""
        assert flow.response is not None
        made: Decision = flow.metadata[DECISION]
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

    def websocket_message(self, flow: http.HTTPFlow) -> None:
        """The engine keeps every message of a connection; we keep none."""
        if flow.websocket is not None:
            flow.websocket.messages.clear()

    def _unidentified(self, flow: http.HTTPFlow) -> Refused | None:
        given = headers.values(flow.request.headers.fields, b"proxy-authorization")
        if self.sandbox.admits(given[0] if len(given) == 1 else None):
            return None
        challenge = (("proxy-authenticate", 'Basic realm="nsharness"'),)
        return Refused(407, "proxy-authentication-required", headers=challenge)

    def _value(self, allow: Allow, name: str) -> Secret | None:
        return self.sandbox.credentials.value(str(allow.pattern), name)

    def _record(self, made: Decision, action: Literal["allow", "inject"], **facts: Any) -> None:
        seen = made.view
        self.sandbox.record(
            action,
            self.road,
            request=made.number,
            method=seen.method,
            scheme=seen.scheme,
            host=seen.host,
            port=seen.port,
            path=seen.path,
            rule=made.allow.rule.name,
            **facts,
        )

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
