"""Answers without secrets: status line, header fields and body, made ready before any of it goes on."""

from __future__ import annotations

from typing import Final

from mitmproxy import http

from nsharness.credentials.decoding import Decoder, DecodingError, parse_encodings
from nsharness.credentials.map import CredentialMap
from nsharness.credentials.scrub import Scrubber
from nsharness.policy.headers import values
from nsharness_proxy.bodies import Inbound

# The engine has read these already, and they say where the body ends.
_FRAMING: Final = frozenset({b"content-length", b"transfer-encoding"})
# What they say of the body is no longer true once it has been decoded.
_OF_THE_ENCODED: Final = frozenset(
    {b"content-encoding", b"content-length", b"transfer-encoding", b"content-md5"}
)
_WITHOUT_BODY: Final = frozenset({101, 204, 304})


def scrubber_for(credentials: CredentialMap) -> Scrubber | None:
    """What takes all secrets of a map out of what comes back; None where there are none. Share it."""
    return Scrubber(credentials.secrets()) if len(credentials) else None


def clean(
    scrubber: Scrubber | None, request: http.Request, response: http.Response, *, credentialed: bool
) -> Inbound:
    """Take the secrets out of the head of an answer, and say how its body has to go through.

    From a host with a credential the body is decoded, and goes on as identity; ``DecodingError`` if it has
    an encoding that cannot be undone. A host that gets no credential has none to give back: what of its
    bodies is encoded passes as it is.
    """
    if scrubber is None:
        return Inbound()
    transfer = values(response.headers.fields, b"transfer-encoding")
    if credentialed and any(value.strip(" \t").lower() != "chunked" for value in transfer):
        # The engine undoes no other, so that nobody here could look into it.
        raise DecodingError("unknown transfer coding")
    codings = parse_encodings(values(response.headers.fields, b"content-encoding")) if credentialed else ()
    response.data.reason = scrubber.text(response.data.reason)
    response.headers = http.Headers(
        [
            (name, value) if name.lower() in _FRAMING else (scrubber.text(name), scrubber.text(value))
            for name, value in response.headers.fields
        ]
    )
    # RFC 9110 section 9.3.2: what a HEAD answer says of a body is about another one.
    if not codings or request.method == "HEAD" or response.status_code in _WITHOUT_BODY:
        return Inbound(scrubber)
    _reframe(request, response)
    return Inbound(scrubber, Decoder(codings))


def _reframe(request: http.Request, response: http.Response) -> None:
    """The length of a decoded body is not known in advance (RFC 9112 section 6)."""
    fields = [field for field in response.headers.fields if field[0].lower() not in _OF_THE_ENCODED]
    old = request.data.http_version == b"HTTP/1.0"
    fields.append((b"Connection", b"close") if old else (b"Transfer-Encoding", b"chunked"))
    response.headers = http.Headers(fields)
    response.data.http_version = b"HTTP/1.1"


__all__ = ["DecodingError", "clean", "scrubber_for"]
