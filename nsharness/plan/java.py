"""A trust store for Java, which reads neither PEM bundles nor directories of certificates. Pure.

The JKS form, which every version reads, also where PKCS #12 is its default (``keystore.type.compat`` in
``java.security``). It holds certificates only, so that its password guards nothing.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from typing import Final

PASSWORD: Final = "changeit"  # noqa: S105 - it guards nothing
"""What Java's own store has, and every tool assumes."""

_MAGIC: Final = 0xFEEDFEED
_VERSION: Final = 2
_TRUSTED_CERTIFICATE: Final = 2
_TYPE: Final = "X.509"
# Mixed into the digest by sun.security.provider.JavaKeyStore, "as a whitener".
_WHITENER: Final = b"Mighty Aphrodite"


def trust_store(certificates: Iterable[tuple[str, bytes]], further: Sequence[bytes] = ()) -> bytes:
    """The store of these certificates, each with its alias and in DER, and of ``further`` entries. Aliases
    are lower case and unique."""
    entries = [*(entry(alias, der) for alias, der in certificates), *further]
    content = struct.pack(">III", _MAGIC, _VERSION, len(entries)) + b"".join(entries)
    import hashlib

    digest = hashlib.sha1(PASSWORD.encode("utf-16-be") + _WHITENER + content, usedforsecurity=False)
    return content + digest.digest()


def entry(alias: str, der: bytes) -> bytes:
    """What a store has for one certificate."""
    # The time of the entry, milliseconds since 1970, is nobody's business and would differ each time.
    head = struct.pack(">I", _TRUSTED_CERTIFICATE) + _text(alias) + struct.pack(">Q", 0)
    return head + _text(_TYPE) + struct.pack(">I", len(der)) + der


def _text(text: str) -> bytes:
    """As ``DataOutput.writeUTF`` writes it; for ASCII that is UTF-8 with a length."""
    data = text.encode("ascii")
    return struct.pack(">H", len(data)) + data
