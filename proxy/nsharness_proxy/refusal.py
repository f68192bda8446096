"""Answers of the proxy itself: a small JSON body and a header that say why, and nothing about the host.

The engine has error pages of its own, which quote what an upstream or a resolver said; none of them
is ever sent.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from http import HTTPStatus

from nsharness.policy.authority import Refusal
from nsharness.policy.decide import Deny

REASON_HEADER = "x-nsharness-reason"

UPSTREAM_FAILED = "upstream-failed"
UNREADABLE = "upstream-encoding-unreadable"
MALFORMED = "malformed-request"

UPSTREAM_REASONS = {
    "upstream-name-not-found": "the host has no address",
    "upstream-address-refused": "the host has no public address, and the profile maps it to no upstream",
    "upstream-unreachable": "the host could not be reached",
    "upstream-timeout": "the host did not answer in time",
    "upstream-certificate-rejected": "the host's certificate could not be verified",
    "upstream-tls-failed": "no TLS connection to the host was possible",
    "upstream-response-malformed": "the host's answer is not HTTP that could be forwarded",
    "upstream-closed": "the host closed the connection before it had answered",
    UNREADABLE: "the host's answer has an encoding that could not be undone",
    UPSTREAM_FAILED: "the request failed on its way to the host",
}
"""Every way in which an allowed request can fail upstream, and what the client is told about it."""


@dataclass(frozen=True, slots=True)
class Refused:
    """Why a request gets no answer from its host: status, a reason that programs can compare, the name
    of the rule that came closest, and a sentence for a person."""

    status: int
    reason: str
    rule: str | None = None
    hint: str = ""
    headers: tuple[tuple[str, str], ...] = field(default=())

    def fields(self) -> list[tuple[bytes, bytes]]:
        """The header fields of the answer, without any of the connection."""
        pairs = (
            ("content-type", "application/json"),
            ("content-length", str(len(self.body()))),
            ("cache-control", "no-store"),
            (REASON_HEADER, self.reason),
            *self.headers,
        )
        return [(name.encode("ascii"), value.encode("ascii")) for name, value in pairs]

    def body(self) -> bytes:
        """The JSON object that a client reads."""
        values = {"reason": self.reason, "rule": self.rule, "hint": self.hint}
        return json.dumps(values, ensure_ascii=True).encode("ascii") + b"\n"

    def page(self, method: str = "GET", *, closes: bool = True) -> bytes:
        """The whole answer as bytes; the connection ends with it if it ``closes``. ``HEAD`` gets the same
        head and no body (RFC 9110 section 9.3.2)."""
        lines = [f"HTTP/1.1 {self.status} {HTTPStatus(self.status).phrase}".encode("ascii")]
        lines += [name + b": " + value for name, value in self.fields()]
        if closes:
            lines.append(b"connection: close")
        return b"\r\n".join([*lines, b"", b"" if method == "HEAD" else self.body()])


def malformed(hint: str) -> Refused:
    """What no two servers would be sure to read alike."""
    return Refused(400, MALFORMED, hint=hint)


def refused_by_authority(refused: Refusal) -> Refused:
    """A request whose names of its destination disagree, or are none."""
    reason = MALFORMED if refused.status == 400 else "misdirected-request"
    return Refused(refused.status, reason, hint=refused.reason)


def denied_by_policy(denied: Deny) -> Refused:
    """A request that no rule allows, or that one denies."""
    return Refused(denied.status, denied.reason, denied.rule, denied.hint)


def upstream_failure(reason: str) -> Refused:
    """An allowed request that could not be completed; an unknown reason tells nothing further."""
    known = reason if reason in UPSTREAM_REASONS else UPSTREAM_FAILED
    status = 504 if known == "upstream-timeout" else 502
    return Refused(status, known, hint=UPSTREAM_REASONS[known])


# How the engine's descriptions of answers that it cannot read begin.
_MALFORMED_ANSWER = (
    "Cannot parse HTTP response",
    "unexpected server response",
    "HTTP/1 protocol",
    "Received ",
)


def upstream_reason(message: str, *, during_connect: bool = False) -> str:
    """One of ``UPSTREAM_REASONS`` for a failure that the engine or we ourselves describe.

    The engine's descriptions quote what came over the wire: they are recognised, never repeated.
    """
    if message in UPSTREAM_REASONS:
        return message
    if message.startswith("Certificate verify failed"):
        return "upstream-certificate-rejected"
    if during_connect:
        # What we cannot connect to is described by ourselves; the rest is the engine's TLS.
        return "upstream-tls-failed"
    if message == "server closed connection":
        return "upstream-closed"
    if message.startswith(_MALFORMED_ANSWER):
        return "upstream-response-malformed"
    return UPSTREAM_FAILED
