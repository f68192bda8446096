"""Answers without secrets: status line, header fields and body, made ready before any of it goes on."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from typing import Final

from nsharness.credentials.decoding import Decoder, DecodingError, parse_encodings
from nsharness.credentials.map import CredentialMap
from nsharness.credentials.scrub import Scrubber
from nsharness.policy.headers import Field, values
from nsharness_proxy.bodies import Inbound

# What searches for secrets imports it when it is first needed, which is too late here.
with suppress(ImportError):
    import hyperscan  # noqa: F401

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


@dataclass(frozen=True, slots=True)
class Cleaned:
    """An answer's reason and fields without secrets, and how its body goes through. What says where the body
    ends is as it was, unless it is ``decoded``: then the fields say nothing of it."""

    reason: bytes
    fields: Sequence[Field]
    body: Inbound
    decoded: bool = False


def clean(
    scrubber: Scrubber | None,
    method: str,
    status: int,
    reason: bytes,
    fields: Sequence[Field],
    *,
    credentialed: bool,
) -> Cleaned:
    """Take the secrets out of the head of an answer to a request with ``method``, and say how its body has to
    go through.

    From a host with a credential the body is decoded, and goes on as identity; ``DecodingError`` if it has
    an encoding that cannot be undone. A host that gets no credential has none to give back: what of its
    bodies is encoded passes as it is.
    """
    if scrubber is None:
        return Cleaned(reason, fields, Inbound())
    codings: tuple[str, ...] = ()
    if credentialed:
        transfer = values(fields, b"transfer-encoding")
        if transfer and any(value.strip(" \t").lower() != "chunked" for value in transfer):
            # The engines undo no other, so that nobody here could look into it.
            raise DecodingError("unknown transfer coding")
        encodings = values(fields, b"content-encoding")
        codings = parse_encodings(encodings) if encodings else ()
    # No form of any secret has a line break in it: what is in none of the lines is in none of their parts.
    if scrubber.finds(b"\n".join(chain((reason,), *fields))):
        reason = scrubber.text(reason)
        fields = [
            (name, value) if name.lower() in _FRAMING else (scrubber.text(name), scrubber.text(value))
            for name, value in fields
        ]
    # RFC 9110 section 9.3.2: what a HEAD answer says of a body is about another one.
    if not codings or method == "HEAD" or status in _WITHOUT_BODY:
        return Cleaned(reason, fields, Inbound(scrubber))
    kept = [field for field in fields if field[0].lower() not in _OF_THE_ENCODED]
    return Cleaned(reason, kept, Inbound(scrubber, Decoder(codings)), decoded=True)


__all__ = ["DecodingError", "clean", "scrubber_for"]
