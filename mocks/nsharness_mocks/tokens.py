"""Who may come in, decided on digests; and what of a token may be shown."""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Sequence

_BEARER = re.compile(r"[Bb]earer +(?P<token>[!-~]+)")
_PUBLIC_PREFIX = re.compile(r"[A-Za-z0-9-]{1,4}_(?=[!-~]{8})")


def accepted(authorization: Sequence[str], digest: str | None) -> bool:
    """Whether the ``Authorization`` headers of a request are one bearer token whose SHA-256 is ``digest``.

    ``digest`` is lower-case hex; None means that nobody may come in. Two headers are refused: whoever
    reads the first and whoever reads the last would see different tokens. The scheme is compared without
    case, as RFC 9110 section 11.1 has it, here reduced to the two spellings that clients use. Digests are
    compared in constant time, so the time that a refusal takes says nothing about the token.
    """
    if digest is None or len(authorization) != 1:
        return False
    match = _BEARER.fullmatch(authorization[0])
    if match is None:
        return False
    seen = hashlib.sha256(match["token"].encode("ascii")).hexdigest()
    return hmac.compare_digest(seen, digest)


def shown(authorization: Sequence[str]) -> str:
    """What a log line may say about the ``Authorization`` headers of a request.

    ``none`` without one; ``Bearer wiki_…`` when the token begins with a public prefix, which is at most
    five characters up to and including the first underscore, followed by enough to be a token;
    ``Bearer …`` for everything else. The scheme is not repeated from the request: a client that forgets
    to write one puts the token in its place.
    """
    if not authorization:
        return "none"
    if len(authorization) == 1 and (match := _BEARER.fullmatch(authorization[0])):
        prefix = _PUBLIC_PREFIX.match(match["token"])
        return f"Bearer {prefix[0] if prefix else ''}…"
    return "Bearer …"
