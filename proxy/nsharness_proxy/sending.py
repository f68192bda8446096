"""A request on its way out: what goes on of it, whether it may at all, and with which secrets.

``outgoing`` and ``admit`` are asked when a request was allowed, ``fill`` when the connection to its host
stands. In between there is no secret in the request, and nothing else in the program has one to put into it.
``certificate`` is asked while that connection is made, if its host wants to see one.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from nsharness.credentials.map import ClientCertificate
from nsharness.policy import headers, limits
from nsharness.policy.authority import Claims
from nsharness.policy.decide import Allow
from nsharness.policy.headers import Field, HeaderError
from nsharness.policy.limits import Usage, retry_after
from nsharness.policy.proof import Proof, ProofError, Upstream, prove
from nsharness.policy.request import RequestView
from nsharness_proxy import refusal
from nsharness_proxy.bodies import SECRET_IN_REQUEST, STRAY_PLACEHOLDER
from nsharness_proxy.refusal import Refused, denied_by_policy
from nsharness_proxy.sandbox import Sandbox


@dataclass(frozen=True, slots=True)
class Outgoing:
    """The header fields that go on, a Host field first, and the names of those that are injected or become
    secrets."""

    fields: tuple[Field, ...]
    secret: tuple[str, ...]


def carries_secret(sandbox: Sandbox, parts: Iterable[bytes], fields: Iterable[Field]) -> Refused | None:
    """Whether a request has a secret in it, whatever its host: the workload must not have any."""
    if sandbox.scrubber is None:
        return None
    lines = (*parts, *(name + b": " + value for name, value in fields))
    # No form of any secret has a line break in it.
    return SECRET_IN_REQUEST if sandbox.scrubber.finds(b"\n".join(lines)) else None


def outgoing(
    sandbox: Sandbox, allow: Allow, fields: Sequence[Field], host: str, *, websocket: bool
) -> Outgoing | Refused:
    """What goes on of the header fields of an allowed request, with ``host`` as its Host field, or why it may
    not. The same for every request with these fields that is allowed by the same."""
    pattern = str(allow.pattern)
    certified = not allow.rule.client_certificate or sandbox.credentials.has_certificate(pattern)
    if not certified or not all(sandbox.credentials.has(pattern, name) for name in allow.inject):
        # Rather no request than one without the credential that the profile promises.
        return Refused(502, "credential-missing", allow.rule.name)
    placeholders = sandbox.placeholders
    usable = placeholders.usable(allow.rule)
    try:
        kept = headers.outgoing(fields, allow, websocket=websocket, placeholders=usable)
    except HeaderError as error:
        return refusal.malformed(str(error))
    secret = allow.inject
    if placeholders.detector is not None:
        neutral, used = placeholders.used(kept, allow.rule)
        if _strays(sandbox, *(name + b": " + value for name, value in neutral)):
            return STRAY_PLACEHOLDER
        secret = (*secret, *used)
    return Outgoing(tuple(headers.with_host(kept, host)), secret)


def admit(sandbox: Sandbox, seen: RequestView, allow: Allow) -> Refused | None:
    """Why a request that could go on may not: by its target, or by how many there were. Counts others."""
    watched = sandbox.placeholders.detector is not None
    if watched and _strays(sandbox, seen.target.encode("utf-8", "surrogateescape")):
        return STRAY_PLACEHOLDER
    return _count(sandbox, allow)


def _strays(sandbox: Sandbox, *lines: bytes) -> bool:
    """Whether there is a placeholder where it may not be."""
    return sandbox.policy.stray_placeholders == "block" and sandbox.placeholders.finds(b"\n".join(lines))


def fill(
    sandbox: Sandbox,
    claims: Claims,
    seen: RequestView,
    allow: Allow,
    upstream: Upstream | None,
    fields: Sequence[Field],
) -> tuple[Proof, list[Field]]:
    """The header fields with the secrets in them, and the proof that they may be sent over a connection to
    ``upstream``, which is None if nothing is known of it. ``ProofError`` if there is none."""
    proof = _prove(sandbox, claims, seen, upstream)
    made = list(fields)
    if proof.secrets:
        secrets = sandbox.credentials.placeholder_secrets(proof)
        made = sandbox.placeholders.filled(made, allow.rule, secrets)
    for name in allow.inject:
        made.append((name.encode("ascii"), sandbox.credentials.reveal(proof, name).encode("ascii")))
    return proof, made


def certificate(
    sandbox: Sandbox, claims: Claims, seen: RequestView, upstream: Upstream | None
) -> ClientCertificate:
    """The certificate and key for a connection on which the host's own certificate has just been verified,
    and on which the request is to be sent. ``ProofError`` if it may not be shown there."""
    return sandbox.credentials.client_certificate(_prove(sandbox, claims, seen, upstream))


def _prove(sandbox: Sandbox, claims: Claims, seen: RequestView, upstream: Upstream | None) -> Proof:
    if upstream is None:
        raise ProofError("upstream", "nothing is known of the connection")
    return prove(
        sandbox=sandbox.id,
        claims=claims,
        names=sandbox.names,
        policy=sandbox.policy,
        request=seen,
        upstream=upstream,
        secret_version=sandbox.credentials.version,
    )


def _count(sandbox: Sandbox, allow: Allow) -> Refused | None:
    rule, now = allow.rule, time.monotonic_ns()
    usage = sandbox.usage.get(rule.name, Usage())
    sandbox.usage[rule.name], denied = limits.admit(rule, usage, now)
    if denied is None:
        return None
    refused = denied_by_policy(denied)
    if denied.reason != "rate-exceeded":
        return refused
    wait = ("retry-after", str(retry_after(rule, usage, now)))
    return Refused(refused.status, refused.reason, refused.rule, refused.hint, headers=(wait,))
