"""What a workload is given in place of a secret, and how it becomes the secret on its way out.

A placeholder has the shape that clients check for (``sk-ant-api03-…``), is useless at every service,
differs from run to run, and can be recognised: by a person, because its random part begins with ``nsph``;
by the proxy, because it knows them all. It comes from a random salt of the run and the secret's name,
never from the value, so that a proxy that was started again makes the same ones.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache

from nsharness.credentials.kinds import JWT, Kind
from nsharness.credentials.scrub import Scrubber
from nsharness.credentials.secret import Secret, SecretRef

MARK = "nsph"
SALT_BYTES = 32
_DETECTORS = 16  # Sets of placeholders: in one proxy there is one.

_BASIC = re.compile(rb"(?P<scheme>basic +)(?P<pair>[A-Za-z0-9+/]+={0,2}) *", re.IGNORECASE)
# The year 2100: a client that looks at the expiry should not try to refresh it.
_NEVER = 4102444800


def placeholder(ref: SecretRef, kind: Kind, salt: bytes) -> str:
    """The placeholder of a secret in the run with this salt: at least ``SALT_BYTES`` random bytes."""
    if len(salt) < SALT_BYTES:
        raise ValueError(f"a salt has at least {SALT_BYTES} bytes")
    stream = _stream(salt, f"{ref} {kind.name}")
    if kind is JWT:
        return _jwt(stream)
    fields = [field if isinstance(field, str) else _draw(stream, *field) for field in kind.fields]
    return kind.prefix + "".join(_marked(kind, fields))


def substitute(value: bytes, secrets: Mapping[str, Secret]) -> tuple[bytes, tuple[str, ...]]:
    """A header value with every placeholder in it replaced, and which ones (each once, in order).

    ``secrets`` maps the placeholders that may be used here to what they stand for; others stay. Inside
    ``Basic`` credentials (RFC 7617) the pair is decoded and encoded again. One pass: a value is not
    searched for placeholders. The result holds secrets: send it and forget it.
    """
    if not secrets:
        return value, ()
    basic = _BASIC.fullmatch(value)
    if basic:
        try:
            pair = base64.b64decode(basic["pair"] + b"=" * (-len(basic["pair"]) % 4), validate=True)
        except binascii.Error:
            return _replaced(value, secrets)
        changed, used = _replaced(pair, secrets)
        if used:
            return basic["scheme"] + base64.b64encode(changed), used
    return _replaced(value, secrets)


def detector(placeholders: Iterable[str]) -> Scrubber:
    """Recognises placeholders in the same forms as secrets: for requests to hosts that are not entitled
    (``finds``, or ``stream().found``). All who ask for the same ones share one: it has 1.7 MB."""
    return _detector(frozenset(placeholders))


@lru_cache(maxsize=_DETECTORS)
def _detector(placeholders: frozenset[str]) -> Scrubber:
    return Scrubber(Secret(each) for each in sorted(placeholders))


def _replaced(value: bytes, secrets: Mapping[str, Secret]) -> tuple[bytes, tuple[str, ...]]:
    # Longest first, should one begin with another.
    texts = sorted(secrets, key=lambda text: (-len(text), text))
    used: dict[str, None] = {}

    def replace(match: re.Match[bytes]) -> bytes:
        used.setdefault(match[0].decode())
        return secrets[match[0].decode()].reveal().encode()

    changed = re.sub(b"|".join(re.escape(text.encode()) for text in texts), replace, value)
    return changed, tuple(used)


def _marked(kind: Kind, fields: list[str]) -> list[str]:
    """Put the mark where the last long field's alphabet has room for it."""
    for number in reversed(range(len(fields))):
        field = kind.fields[number]
        if isinstance(field, str) or field[1] < 16:
            continue
        for mark in (MARK, MARK.upper()):
            if set(mark) <= set(field[0]):
                fields[number] = mark + fields[number][len(mark) :]
                return fields
    return fields


def _jwt(stream: Iterator[int]) -> str:
    """A token that parses (RFC 7519), claims nothing, and that no verifier accepts: its algorithm is
    ``none``, for which the signature would have to be empty (RFC 7518 section 3.6)."""
    header = {"alg": "none", "typ": "JWT"}
    number = MARK + _draw(stream, "0123456789abcdef", 32)
    claims = {"sub": "nsharness-placeholder", "exp": _NEVER, "jti": number}
    parts = [json.dumps(part, separators=(",", ":")).encode() for part in (header, claims)]
    parts.append(bytes(next(stream) for _ in range(32)))
    return ".".join(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts)


def _draw(stream: Iterator[int], alphabet: str, count: int) -> str:
    # Bytes beyond the last whole multiple would favour the first letters.
    limit = 256 - 256 % len(alphabet)
    fair = (byte for byte in stream if byte < limit)
    return "".join(alphabet[next(fair) % len(alphabet)] for _ in range(count))


def _stream(salt: bytes, label: str) -> Iterator[int]:
    counter = 0
    while True:
        yield from hmac.digest(salt, f"nsharness placeholder {label} {counter}".encode(), "sha256")
        counter += 1
