"""What becomes of one client connection and of each request on it, whichever engine moves the bytes.

An engine says what has come (``Asked``) and what it is connected to (``Reached``), and does what it is told.
It is told nothing that is secret, except by ``ready``: what that gives is to be sent and kept nowhere.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, Literal

from nsharness.audit.event import Encoded, Road
from nsharness.credentials.map import ClientCertificate
from nsharness.credentials.scrub import Scrubber
from nsharness.policy import headers
from nsharness.policy.asking import askable_host
from nsharness.policy.authority import Authority, Claims, Refusal, authority
from nsharness.policy.conditions import port_allowed
from nsharness.policy.decide import Allow, Deny, body_denied, decide, decide_host
from nsharness.policy.headers import Field
from nsharness.policy.hosts import join_authority
from nsharness.policy.proof import MappedAddress, Proof, ProofError, Upstream, VerifiedCertificate
from nsharness.policy.request import DEFAULT_PORTS, RequestView, Scheme, view
from nsharness.policy.route import Tunnel, route
from nsharness.policy.uninjected import uninjected, without_placeholder
from nsharness_proxy import claims, refusal, sending
from nsharness_proxy.asking import HINTS
from nsharness_proxy.bodies import Inbound, Outbound
from nsharness_proxy.claims import Origin
from nsharness_proxy.decision import Decision, Judged, request_facts
from nsharness_proxy.refusal import Refused, denied_by_policy, refused_by_authority
from nsharness_proxy.sandbox import Sandbox, next_number
from nsharness_proxy.told import Told

# How OpenSSL calls the alerts of clients that do not trust us.
_DISTRUST: Final = ("unknown ca", "bad certificate", "certificate unknown")


@dataclass(frozen=True, slots=True)
class Asked:
    """A request as it came; ``target`` is in origin form, ``body`` says whether it has one."""

    method: bytes
    target: bytes
    fields: tuple[Field, ...]
    claims: Claims
    body: bool


@dataclass(frozen=True, slots=True)
class Reached:
    """The connection that a request is about to be sent on, as it was made and measured: the host and port
    that it was made for, the address at its other end, whether TLS stands, with a certificate that was
    ``verified``, which client certificate it is for, and whether that was ``shown``."""

    host: str
    port: int
    peer: tuple[str, int] | None
    tls: bool
    verified: VerifiedCertificate | None
    identity: object
    shown: bool


class Judge:
    """One client connection of one sandbox."""

    def __init__(self, sandbox: Sandbox, origin: Origin, tunnel: Authority | None = None) -> None:
        self.sandbox = sandbox
        self.origin = origin
        self.tunnel = tunnel
        """Where the CONNECT tunnel leads that this connection has become."""
        self._told: Told | None = None
        self.approved: set[tuple[str, int]] = set()
        """Host and port of everything that was allowed: nothing else is connected to."""

    @property
    def road(self) -> Road:
        """The way that requests take here."""
        if self.origin.entrance != "explicit":
            return "transparent"
        return "connect" if self.tunnel else "forward"

    def arrives(self) -> bool:
        """Whether the connection may stay: a transparent one leads to a name that was issued or an address
        that is listed."""
        if self.origin.entrance == "explicit":
            return True
        agreed = authority(claims.of_connection(self.origin, self.sandbox.names))
        if not self.sandbox.listener_identifies:
            self.deny(agreed, Refused(403, "transparent-closed"))
        elif isinstance(agreed, Refusal):
            self.deny(agreed, refused_by_authority(agreed))
        elif isinstance(denied := self._denied(agreed), Deny):
            self.deny(agreed, denied_by_policy(denied))
        else:
            return True
        return False

    def _denied(self, leads: Authority) -> Deny | None:
        """Why no request at all may go there. Where a person may be asked, the question waits for a request:
        clients have more patience for an answer than for a connection."""
        policy = self.sandbox.policy
        decision = decide_host(policy, leads.host, leads.port)
        if isinstance(decision, Deny) and not askable_host(policy, leads.host, leads.port):
            return decision
        return None

    def leads_to(self) -> Authority | None:
        """Where the connection leads, by what its kernel or its CONNECT request said."""
        if self.origin.entrance == "explicit":
            return self.tunnel
        leads = authority(claims.of_connection(self.origin, self.sandbox.names))
        return leads if isinstance(leads, Authority) else None

    def untouched(self) -> tuple[Authority, str] | None:
        """Where TLS leads that is passed through as it is, and the name of the rule for that; None where it
        is looked into: policy leaves something to decide on inside it."""
        policy, leads = self.sandbox.policy, self.leads_to()
        if leads is None:
            return None
        way = route(policy, leads.host, leads.port)
        # Which rule allows a port depends on the scheme, which only now is known.
        if not isinstance(way, Tunnel) or not port_allowed(
            policy, way.rule, leads.host, leads.port, DEFAULT_PORTS["https"]
        ):
            return None
        return leads, way.rule.name

    def outlived(self) -> bool:
        """Whether a tunnel that was let through would not be any more."""
        leads = self.leads_to()
        return leads is not None and not isinstance(
            route(self.sandbox.policy, leads.host, leads.port), Tunnel
        )

    def enter(self, claimed: Claims, fields: Sequence[Field]) -> Refused | None:
        """May there be a tunnel to this host and port? Every request in it is decided anew."""
        agreed = authority(claimed)
        refused = self.unidentified(fields)
        if refused is None and isinstance(agreed, Refusal):
            refused = refused_by_authority(agreed)
        if refused is None and isinstance(agreed, Authority):
            denied = self._denied(agreed)
            if denied is None:
                self.tunnel = agreed
                return None
            refused = denied_by_policy(denied)
        assert refused is not None
        return self.deny(agreed, refused, method="CONNECT", answered=True)

    def unidentified(self, fields: Sequence[Field]) -> Refused | None:
        """The refusal of a client that does not show what the sandbox's clients have to."""
        if self.sandbox.bearer is None:
            return None
        given = headers.values(fields, b"proxy-authorization")
        if self.sandbox.admits(given[0] if len(given) == 1 else None):
            return None
        challenge = (("proxy-authenticate", 'Basic realm="nsharness"'),)
        return Refused(407, "proxy-authentication-required", headers=challenge)

    def decide(self, asked: Asked, waited: str | None = None) -> Decision | Refused:
        """The decision on a request, before a name is looked up or a connection made. It is recorded here
        unless the request gets a secret, which ``ready`` records. ``waited`` says how the wait for a person's
        answer ended, if there was one."""
        method = _text(asked.method)
        judged = self.judge(asked, waited)
        seen = judged.seen
        if isinstance(judged.outcome, Refused):
            path = None if seen is None else seen.path
            return self.deny(judged.agreed, judged.outcome, method=method, path=path, answered=True)
        assert seen is not None
        allow, told = judged.outcome, self._about(asked.fields)
        # What would follow the body, an answer's end or a message? So it is a request like any other.
        websocket = told.upgrades and method == "GET" and not asked.body
        outgoing = told.outgoing(allow, _named(seen), websocket=websocket)
        refused = outgoing if isinstance(outgoing, Refused) else sending.admit(self.sandbox, seen, allow)
        if refused is not None or isinstance(outgoing, Refused):
            assert refused is not None
            return self.deny(judged.agreed, refused, method=method, path=seen.path, answered=True)
        made = self._decision(asked, seen, allow, outgoing, websocket=websocket)
        self.approved.add((seen.host, seen.port))
        if not made.secret and made.identity is None:
            without = uninjected(self.sandbox.policy, seen, made.allow) or without_placeholder(made.allow)
            self._record(made, "allow", reason=without.reason if without else None)
        return made

    def judge(self, asked: Asked, waited: str | None = None) -> Judged:
        """The decision on a request, without anything that follows from it."""
        refused = self.unidentified(asked.fields) if self.road == "forward" else None
        if refused is not None:
            return Judged(refused)
        agreed = authority(asked.claims)
        if isinstance(agreed, Refusal):
            return Judged(refused_by_authority(agreed), agreed)
        box, told = self.sandbox, self._about(asked.fields)
        refused = told.refused or sending.carries_secret(box, (asked.method, asked.target), ())
        if refused is not None:
            return Judged(refused, agreed)
        scheme: Scheme = "https" if asked.claims.tls else "http"
        target = _text(asked.target)
        try:
            seen = view(_text(asked.method), scheme, agreed.host, agreed.port, target, told.texts)
        except ValueError as error:
            return Judged(refusal.malformed(str(error)), agreed)
        # Once more: taking dot segments out of a path puts together what they kept apart.
        if seen.target != target:
            refused = sending.carries_secret(box, (_bytes(seen.target),), ())
            if refused is not None:
                return Judged(refused, agreed)
        decision = decide(box.policy, seen)
        if isinstance(decision, Deny):
            refused = denied_by_policy(decision)
            if waited and decision.reason == "host-not-allowed":
                refused = Refused(403, waited, None, f"{HINTS[waited]}; {decision.hint}")
            return Judged(refused, agreed, asked.claims, seen)
        return Judged(decision, agreed, asked.claims, seen)

    def _decision(
        self, asked: Asked, seen: RequestView, allow: Allow, outgoing: sending.Outgoing, *, websocket: bool
    ) -> Decision:
        sent = Outbound(self.sandbox.scrubber, self._stray_detector(), self._size_check(allow))
        fields, secret = outgoing.fields, outgoing.secret
        made = Decision(next_number(), asked.claims, seen, allow, fields, secret, websocket, sent)
        if asked.body or websocket:
            # Otherwise nothing comes that could be refused, and this is a circle of references.
            sent.refuse = lambda refused: self.stop(made, refused)
        return made

    def _about(self, fields: tuple[Field, ...]) -> Told:
        """What is known of these fields: the same as of the last ones, if they are."""
        told = self._told
        if told is None or told.fields is not fields:
            told = Told(self.sandbox, fields)
            self._told = told if told.brief else None
        return told

    def _size_check(self, allow: Allow) -> Any:
        def check(size: int) -> Refused | None:
            denied = body_denied(allow.rule, size)
            return denied_by_policy(denied) if denied else None

        return None if allow.rule.max_body is None else check

    def message_from_client(self, made: Decision) -> Outbound:
        """How a message of a WebSocket goes through on its way to the host."""
        return Outbound(
            self.sandbox.scrubber, self._stray_detector(), refuse=lambda refused: self.stop(made, refused)
        )

    def message_from_host(self) -> Inbound:
        """The same for one that comes from the host."""
        return Inbound(self.sandbox.scrubber)

    def _stray_detector(self) -> Scrubber | None:
        blocked = self.sandbox.policy.stray_placeholders == "block"
        return self.sandbox.placeholders.detector if blocked else None

    def ready(self, made: Decision, reached: Reached, fields: Sequence[Field]) -> list[Field] | Refused:
        """The header fields as they are sent. The one place where a credential's value is read: the
        connection stands, is the one that was decided on, and is verified where it is TLS."""
        seen = made.view
        right = (reached.host, reached.port, reached.tls) == (seen.host, seen.port, seen.scheme == "https")
        # What a host was shown on a connection stays true of it, whichever rule a later request is by.
        if not right or reached.identity != made.identity:
            refused = Refused(502, refusal.UPSTREAM_FAILED)
            return self.deny(None, refused, method=seen.method, answered=True)
        if not made.secret and made.identity is None:
            return list(fields)
        try:
            proof, filled = sending.fill(
                self.sandbox, made.claims, seen, made.allow, _upstream(reached, seen.scheme), fields
            )
        except ProofError as error:
            reason = f"proof-{error.field.replace('_', '-')}"
            agreed = Authority(seen.host, seen.port)
            refused = Refused(502, reason, made.allow.rule.name)
            return self.deny(agreed, refused, method=seen.method, path=seen.path, answered=True)
        shown = made.identity is None or reached.shown
        action: Literal["inject", "allow"] = "inject" if made.secret or shown else "allow"
        without = None if shown else "credential-not-requested"
        self._record(made, action, headers=made.secret, proof=_audited(proof), reason=without)
        return filled

    def certificate(self, made: Decision, verified: VerifiedCertificate) -> ClientCertificate:
        """What the host is shown that asks for a certificate, on a connection where its own was just
        ``verified``. ``ProofError`` if it may not be shown there."""
        try:
            return sending.certificate(self.sandbox, made.claims, made.view, verified)
        except ProofError as error:
            self._record(made, "deny", reason=f"proof-{error.field.replace('_', '-')}")
            raise

    def stop(self, made: Decision, refused: Refused) -> None:
        """Record that an allowed request is ended in the middle."""
        self._record(made, "deny", reason=refused.reason, status=refused.status)

    def end(self, made: Decision, action: Literal["response", "error"], **facts: Any) -> None:
        """Record how an allowed request ended."""
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

    def handshake_failed(self, error: str, sni: str | None) -> None:
        """Record that there was no TLS with the client, which may have asked for ``sni``."""
        reason = "client-distrusts-ca" if any(text in error for text in _DISTRUST) else "client-tls-failed"
        self.sandbox.record("error", self.road, scheme="https", host=sni, reason=reason)

    def too_slow(self) -> None:
        """Record that the connection ends, because its client has owed a request for too long."""
        self.sandbox.record("error", self.road, reason="client-too-slow")

    def malformed(self) -> None:
        """Record that what came is no request."""
        self.deny(self.tunnel, refusal.malformed(""))

    def deny(
        self,
        agreed: Authority | Refusal | None,
        refused: Refused,
        *,
        method: str | None = None,
        path: str | None = None,
        answered: bool = False,
    ) -> Refused:
        """Record a denial, with its status if the client is ``answered``; gives it back."""
        known = agreed if isinstance(agreed, Authority) else None
        self.sandbox.record(
            "deny",
            self.road,
            method=method,
            host=known.host if known else None,
            port=known.port if known else None,
            path=path,
            rule=refused.rule,
            reason=refused.reason,
            status=refused.status if answered else None,
        )
        return refused

    def _record(self, made: Decision, action: Literal["allow", "inject", "deny"], **facts: Any) -> None:
        seen, rule = request_facts(made.view), made.allow.rule.name
        self.sandbox.record(action, self.road, request=made.number, rule=rule, **seen, **facts)


@lru_cache(maxsize=256)
def _audited(proof: Proof) -> Encoded:
    """A proof as audit lines carry it: that of the next request over a connection is mostly the same."""
    return Encoded(proof.to_audit())


def _named(seen: RequestView) -> str:
    """The Host field for a request, without a port that its scheme says already."""
    if seen.port != DEFAULT_PORTS[seen.scheme]:
        return join_authority(seen.host, seen.port)
    return f"[{seen.host}]" if ":" in seen.host else seen.host


def _upstream(reached: Reached, scheme: Scheme) -> Upstream | None:
    """What is known of the host at the other end."""
    if scheme == "https":
        return reached.verified
    return MappedAddress(*reached.peer) if reached.peer else None


def _text(value: bytes) -> str:
    return value.decode("utf-8", "surrogateescape")


def _bytes(value: str) -> bytes:
    return value.encode("utf-8", "surrogateescape")
