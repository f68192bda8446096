"""In which forms a secret may come back, as data: what the scrubber looks for, and nothing about how.

A header value is taken apart into the *values* that are worth hiding: the credentials behind the scheme,
the pair and the password inside ``Basic``, the values of ``name=value`` parameters. Each value has
five *forms*: itself, its hexadecimal, and its base64 at each of the three alignments at which it can stand
in a longer text. A form is a row of *units*; a unit is the few bytes that may stand there (``aA`` in
hexadecimal, ``+-`` in base64, whose two alphabets may mix).

On top of that every unit may be *spelled* in a second way: percent-encoded, as a JSON or string
escape, as an HTML entity. Spellings mix freely from unit to unit. So base64 inside a query string and a
password with half of its letters escaped are the same case: there is no list of encodings to combine.

Of base64 only the characters that the value alone determines are units: at either end up to four bits
(edge bits) share a character with a neighbour and stay, like the padding.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache

from nsharness.credentials.kinds import public_head
from nsharness.credentials.secret import MIN_BYTES

_VISIBLE = re.compile(rb"[ -~]*")
# The schemes of RFC 9110 section 11.4 and those that services made up: public words in front of a secret.
_SCHEME = re.compile(
    r"(?:bearer|basic|token|bot|api-?key|key|oauth|jwt|dpop|splunk|geniekey|private-token) +(?P<rest>.+)",
    re.IGNORECASE,
)
_ANY_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9-]* +(?P<rest>.+)")
_PARAMETER = re.compile(r"""(?:^|[\s,;&])[A-Za-z0-9_.-]+=(?:"([^"]*)"|([^\s"',;&]+))""")

_NAMED = {
    ord("&"): b"amp",
    ord("<"): b"lt",
    ord(">"): b"gt",
    ord('"'): b"quot",
    ord("'"): b"apos",
}
# Characters that a JSON or JavaScript string may escape by one backslash, without a code.
SHORT_ESCAPES = frozenset(b"/\"'\\`&$")
# JSON within JSON doubles its backslashes, and again.
_BACKSLASHES = (b"\\", b"\\\\", b"\\\\\\", b"\\" * 4)
_PERCENTS = (b"%", b"%25", b"%2525")
ZEROS = (b"", b"0", b"00")


@dataclass(frozen=True, slots=True)
class Form:
    """One row of units, and how many of the first ones are public (``ghp_``, as base64 perhaps)."""

    units: tuple[bytes, ...]
    head: int

    def __repr__(self) -> str:
        return f"Form({len(self.units)} units)"


def values_of(header_value: str) -> tuple[str, ...]:
    """What is worth hiding of a header value (or of a bare secret), each once, longest first.

    Whatever is shorter than the shortest secret that the store accepts is left out: hiding a ``1`` would
    destroy every body and protect nothing. ``ValueError`` unless it is all visible ASCII, like every value
    that can be in a credential map.
    """
    if not _VISIBLE.fullmatch(header_value.encode(errors="replace")) or not header_value.isascii():
        raise ValueError("only visible ASCII can be a header value and be recognised")
    found = {part for part in _parts(header_value) if len(part) >= MIN_BYTES}
    return tuple(sorted(found, key=lambda part: (-len(part), part)))


def _parts(value: str) -> Iterator[str]:
    value = value.strip(" ")
    scheme = _SCHEME.fullmatch(value)
    rest = scheme["rest"].lstrip(" ") if scheme else value
    yield rest if len(rest) >= MIN_BYTES else value
    if not scheme and (unknown := _ANY_SCHEME.fullmatch(value)):
        # Perhaps a scheme that is not in the list, perhaps the first word of a passphrase: both.
        yield unknown["rest"].lstrip(" ")
    if scheme and value[:5].lower() == "basic":
        yield from _pair(rest)
    for parameter in _PARAMETER.finditer(rest):
        yield parameter[1] or parameter[2] or ""


def _pair(encoded: str) -> Iterator[str]:
    """User and password in Basic credentials (RFC 7617). Tokens go in either place (``TOKEN:``)."""
    try:
        decoded = base64.b64decode(encoded, validate=True).decode("ascii")
    except (binascii.Error, UnicodeDecodeError):
        return
    user, colon, password = decoded.partition(":")
    if not colon or not _VISIBLE.fullmatch(decoded.encode()):
        return
    yield decoded
    yield password
    if len(password) < MIN_BYTES or password == "x-oauth-basic":  # noqa: S105 - GitHub's filler
        yield user


def forms_of(values: Iterable[str]) -> tuple[Form, ...]:
    """The forms of every value, each once."""
    forms: dict[tuple[bytes, ...], Form] = {}
    for value in values:
        for form in _forms(value.encode(), len(public_head(value))):
            known = forms.get(form.units)
            if known is None or form.head < known.head:
                forms[form.units] = form
    return tuple(forms.values())


def _forms(value: bytes, head: int) -> Iterator[Form]:
    # A form writes a space as +.
    yield Form(tuple(b" +" if byte == 0x20 else bytes((byte,)) for byte in value), head)
    digits = value.hex().encode()
    yield Form(tuple(bytes(sorted({digit, *bytes((digit,)).upper()})) for digit in digits), 2 * head)
    for offset in range(3):
        yield Form(_base64_units(value, offset), _determined(offset, head)[1] if head else 0)


def _determined(offset: int, length: int) -> tuple[int, int]:
    """The first base64 character that ``length`` bytes at ``offset`` determine wholly, and how many do."""
    first = -(-8 * offset // 6)
    return first, max(0, 8 * (offset + length) // 6 - first)


def _base64_units(value: bytes, offset: int) -> tuple[bytes, ...]:
    first, count = _determined(offset, len(value))
    encoded = base64.b64encode(bytes(offset) + value)[first : first + count]
    either = {ord("+"): b"+-", ord("/"): b"/_"}
    return tuple(either.get(byte, bytes((byte,))) for byte in encoded)


@lru_cache(maxsize=512)
def spellings(unit: bytes) -> tuple[bytes, ...]:
    """Every way to write one unit: its bytes themselves, and their escapes.

    ``%41`` and ``%2541``; ``\\u0041`` and ``\\x41``, with up to four backslashes; ``\\/`` and the like;
    ``&#65;`` and ``&#x41;``, with up to two zeros; ``&amp;``. Hexadecimal digits in either case.
    """
    ways: set[bytes] = set()
    for byte in unit:
        ways.add(bytes((byte,)))
        for digits in _cases(b"%02x" % byte):
            ways.update(percent + digits for percent in _PERCENTS)
            ways.update(slash + code + digits for slash in _BACKSLASHES for code in (b"u00", b"x"))
            ways.update(b"&#" + x + zeros + digits + b";" for x in (b"x", b"X") for zeros in ZEROS)
        ways.update(b"&#" + zeros + b"%d;" % byte for zeros in ZEROS)
        if byte in SHORT_ESCAPES:
            ways.update(slash + bytes((byte,)) for slash in _BACKSLASHES)
        if byte in _NAMED:
            ways.add(b"&" + _NAMED[byte] + b";")
    return tuple(sorted(ways))


def named_entity(byte: int) -> bytes:
    """The name of the entity for a byte, or nothing."""
    return _NAMED.get(byte, b"")


def _cases(digits: bytes) -> set[bytes]:
    first, second = digits[:1], digits[1:]
    return {a + b for a in (first, first.upper()) for b in (second, second.upper())}
