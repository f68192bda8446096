"""By which name OpenSSL looks for a certificate in a directory: a hash of its subject. Pure.

X509_LOOKUP_hash_dir(3): ``HASH.N``, with the first four bytes, least significant first, of SHA-1 over the
subject in a canonical form, and N for certificates with the same. The form is that of ``x509_name_canon`` in
OpenSSL's crypto/x509/x_name.c: strings as UTF-8 in lower case, their spaces trimmed and made one.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator
from typing import Final

_PEM: Final = re.compile(r"-----BEGIN CERTIFICATE-----([A-Za-z0-9+/=\s]+)-----END CERTIFICATE-----", re.ASCII)
_SPACES: Final = re.compile(r"[ \t\n\v\f\r]+")
_SEQUENCE: Final = 0x30
_SET: Final = 0x31
_UTF8: Final = 0x0C
_VERSION: Final = 0xA0
# The types of strings that are compared as text, with their encodings (X.680 section 8.4).
_STRINGS: Final = {
    0x0C: "utf-8",
    0x13: "latin-1",  # PrintableString
    0x14: "latin-1",  # T61String, as OpenSSL takes it
    0x16: "latin-1",  # IA5String
    0x1A: "latin-1",  # VisibleString
    0x1C: "utf-32-be",  # UniversalString
    0x1E: "utf-16-be",  # BMPString
}


def certificates(pem: str) -> list[bytes]:
    """The certificates in PEM text, as DER; what is between them, or is none, is left out."""
    found = []
    for match in _PEM.finditer(pem):
        try:
            found.append(base64.b64decode("".join(match[1].split()), validate=True))
        except binascii.Error:
            continue
    return found


def subject_hash(der: bytes) -> str:
    """Eight hexadecimal digits, as ``openssl x509 -subject_hash`` prints them. ``ValueError`` for what is no
    certificate."""
    try:
        canonical = b"".join(map(_canonical_set, _parts(_subject(der))))
    except (IndexError, StopIteration, ValueError):
        raise ValueError("no certificate") from None
    import hashlib

    digest = hashlib.sha1(canonical, usedforsecurity=False).digest()
    return digest[3::-1].hex()


def _subject(der: bytes) -> bytes:
    """The content of the subject's SEQUENCE (RFC 5280 section 4.1)."""
    ((_, certificate),) = _elements(der)
    _, signed = next(_elements(certificate))
    fields = [each for each in _elements(signed) if each[0] != _VERSION]
    return fields[4][1]  # after serial number, algorithm, issuer and validity


def _parts(content: bytes) -> Iterator[bytes]:
    return (inner for _, inner in _elements(content))


def _canonical_set(content: bytes) -> bytes:
    # The parts of a SET stand in the order of their encodings (X.690 section 11.6).
    return _encoded(_SET, b"".join(sorted(map(_canonical_attribute, _parts(content)))))


def _canonical_attribute(content: bytes) -> bytes:
    (oid_tag, oid), (tag, value) = _elements(content)
    if tag in _STRINGS:
        text = _SPACES.sub(" ", value.decode(_STRINGS[tag])).strip(" ")
        tag, value = _UTF8, _lower(text).encode()
    return _encoded(_SEQUENCE, _encoded(oid_tag, oid) + _encoded(tag, value))


def _lower(text: str) -> str:
    return "".join(each.lower() if each.isascii() else each for each in text)


def _elements(content: bytes) -> Iterator[tuple[int, bytes]]:
    """Tag and content of each element (X.690 section 8.1), tags of one byte."""
    position = 0
    while position < len(content):
        tag, length = content[position], content[position + 1]
        position += 2
        if length & 0x80:
            count = length & 0x7F
            length = int.from_bytes(content[position : position + count])
            position += count
        if position + length > len(content):
            raise ValueError("no certificate")
        yield tag, content[position : position + length]
        position += length


def _encoded(tag: int, content: bytes) -> bytes:
    length = len(content)
    if length < 0x80:
        return bytes((tag, length)) + content
    size = (length.bit_length() + 7) // 8
    return bytes((tag, 0x80 | size)) + length.to_bytes(size) + content
