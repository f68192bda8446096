"""One canonical form for a host, and the patterns that a rule matches it with.

Two programs that read the same name differently are how a check on a name is walked around, so
there is exactly one reading here, and everything that another reader could take differently is
refused instead of repaired: short, octal and hexadecimal IPv4 (``inet_aton(3)`` accepts them, RFC
6943 section 3.1.1 tells the damage), IPv4-mapped IPv6, zone ids, characters that IDNA 2003 and 2008
map differently, fake A-labels, empty labels, control characters.
"""

from __future__ import annotations

import encodings.idna
import encodings.punycode
import ipaddress
import re
import unicodedata
from dataclasses import dataclass
from functools import lru_cache

# Loaded with this module, not at first use: a process that gave up its user id may no longer be
# able to read its own interpreter's files.
_PREPARE = encodings.idna.nameprep
_ENCODE = encodings.punycode.punycode_encode
_DECODE = encodings.punycode.punycode_decode

# RFC 1035 section 2.3.1 and RFC 1123 section 2.1; the underscore is not in there, but container
# networks have service names with it, and no reader gives it another meaning.
_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
_NUMERIC = re.compile(r"[0-9]+|0x[0-9a-f]*")
_PORT = re.compile(r"[1-9][0-9]{0,4}")
_MAX_NAME = 253
# Generous for a name in characters beyond ASCII; bounds what the conversions below have to look at.
_MAX_TEXT = 512
# The same few names are read again and again: each proof reads every name of its request anew.
_REMEMBERED = 1024


class HostError(ValueError):
    """A host, a host pattern or an authority that has no single reading. The text is for the user."""


@lru_cache(maxsize=_REMEMBERED)
def canonical_host(text: str) -> str:
    """The one spelling of a host name or IP address, or ``HostError``.

    Names come back in lower case, as A-labels, without the dot at the end; IPv4 as a dotted quad;
    IPv6 compressed and without brackets (RFC 5952). The result is a fixed point of this function.
    """
    _refuse_foreign_characters(text)
    if text.startswith("[") and text.endswith("]"):
        return _ipv6(text[1:-1], text)
    if ":" in text:
        return _ipv6(text, text)
    labels = text.removesuffix(".").split(".")
    if not all(labels):
        raise HostError(f"host {_shown(text)} has an empty label")
    labels = [_label(label, text) for label in labels]
    name = ".".join(labels)
    if _NUMERIC.fullmatch(labels[-1]):
        # A name whose last label is a number is an IPv4 address to every resolver, or nothing.
        return _ipv4(name, text)
    if len(name) > _MAX_NAME:
        raise HostError(f"host {_shown(text)} is longer than {_MAX_NAME} characters")
    return name


def is_ip(host: str) -> bool:
    """Whether a *canonical* host is an IP address and not a name."""
    return ":" in host or host.rpartition(".")[2].isdecimal()


@lru_cache(maxsize=_REMEMBERED)
def split_authority(text: str) -> tuple[str, int | None]:
    """``host[:port]`` (RFC 3986 section 3.2) as canonical host and port; None where no port is given.

    IPv6 needs its brackets. Userinfo, an empty port and port 0 are refused with ``HostError``.
    """
    _refuse_foreign_characters(text)
    host, port = text, None
    if text.startswith("["):
        host, bracket, rest = text.partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise HostError(f"authority {_shown(text)} has unbalanced brackets")
        host += bracket
        port = rest[1:] if rest else None
    elif ":" in text:
        host, _, port = text.partition(":")
    if port is None:
        return canonical_host(host), None
    if not _PORT.fullmatch(port) or int(port) > 65535:
        raise HostError(f"authority {_shown(text)} has no valid port after the colon")
    return canonical_host(host), int(port)


def join_authority(host: str, port: int) -> str:
    """The inverse of ``split_authority`` for a canonical host: IPv6 gets its brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


@dataclass(frozen=True, slots=True)
class HostPattern:
    """What a rule's ``hosts`` names: one host, all subdomains of one, or any host at all.

    ``base`` is a canonical host; with ``subdomains`` the pattern means every name *below* it and
    not the base itself. The pattern for any host is the empty base with ``subdomains``.
    """

    base: str
    subdomains: bool = False

    @classmethod
    def parse(cls, text: str, *, allow_any: bool = False) -> HostPattern:
        """Read ``wiki.local``, ``*.example.com``, ``192.0.2.7`` or ``2001:db8::7``; else ``HostError``.

        A wildcard over a single label (``*``, ``*.com``) is refused unless ``allow_any``. Public
        suffixes of several labels are refused where a profile is loaded, see ``suffixes``.
        """
        if text.startswith("*"):
            if text != "*" and not text.startswith("*."):
                raise HostError(f"host pattern {_shown(text)} is none: write *.example.com for subdomains")
            base = canonical_host(text[2:]) if text != "*" else ""
            if base and is_ip(base):
                raise HostError(f"host pattern {_shown(text)} puts a wildcard before an IP address")
            if "." not in base and not allow_any:
                raise HostError(f"host pattern {_shown(text)} is over-broad: it names no domain of its own")
            return cls(base, subdomains=True)
        if "*" in text:
            raise HostError(f"host pattern {_shown(text)} may have a wildcard only as its first label")
        if "://" in text:
            raise HostError(f"host pattern {_shown(text)} has a scheme: give the host alone")
        if "/" in text:
            raise HostError(f"host pattern {_shown(text)} has a path: that goes to `paths`")
        if re.search(r"^[^:]*:\d+$|\]:", text):
            raise HostError(f"host pattern {_shown(text)} has a port: that goes to `ports`")
        if text.startswith("."):
            raise HostError(f"host pattern {_shown(text)} starts with a dot: write *{text} for subdomains")
        return cls(canonical_host(text))

    def matches(self, host: str) -> bool:
        """Whether a host in canonical form is meant. Labels are compared whole."""
        if not self.subdomains:
            return host == self.base
        return not self.base or host.endswith("." + self.base)

    def __str__(self) -> str:
        if not self.subdomains:
            return self.base
        return f"*.{self.base}" if self.base else "*"


def _label(label: str, text: str) -> str:
    """One label as an A-label in lower case."""
    label = label.lower()
    if not label.isascii():
        # Only what is already in its prepared form: sharp s, final sigma, joiners, soft hyphens and
        # full-width letters all become other names in one version of IDNA and not in the next.
        if not _is_prepared(label):
            raise HostError(f"host {_shown(text)} has characters with several readings: write its xn-- form")
        label = "xn--" + _ENCODE(label).decode("ascii")
    if not _LABEL.fullmatch(label):
        raise HostError(f"host {_shown(text)} is not a valid host name")
    if label.startswith("xn--") and not _is_a_label(label):
        raise HostError(f"host {_shown(text)} has an xn-- label that encodes nothing")
    return label


def _is_prepared(label: str) -> bool:
    """Whether every reader of a label beyond ASCII takes it for what it is, and for one label."""
    try:
        prepared = _PREPARE(label)
    except UnicodeError:
        return False
    return prepared == label == unicodedata.normalize("NFKC", label) and "\u3002" not in label


def _is_a_label(label: str) -> bool:
    """Whether an ``xn--`` label stands for a name with characters beyond ASCII, and is its only spelling."""
    try:
        decoded = _DECODE(label[4:], "strict")
        encoded = _ENCODE(decoded)
    except (UnicodeError, ValueError, OverflowError):
        return False
    return not decoded.isascii() and decoded.isprintable() and encoded.decode("ascii") == label[4:]


def _refuse_foreign_characters(text: str) -> None:
    """What is in no host at all, named, because each of these has been a way round a check."""
    if not text:
        raise HostError("host is empty")
    if len(text) > _MAX_TEXT:
        raise HostError("host is too long")
    if "@" in text:
        # Not quoted: what stands before the @ may be a password.
        raise HostError("host has user information before an @")
    if not text.isprintable() or any(c.isspace() for c in text):
        raise HostError(f"host {_shown(text)} has a control character or white space")


def _ipv4(name: str, text: str) -> str:
    try:
        return str(ipaddress.IPv4Address(name))
    except ValueError:
        raise HostError(f"host {_shown(text)} is neither a name nor a dotted-quad IPv4 address") from None


def _ipv6(address: str, text: str) -> str:
    try:
        parsed = ipaddress.IPv6Address(address)
    except ValueError:
        raise HostError(f"host {_shown(text)} is not an IPv6 address") from None
    if parsed.scope_id is not None:
        raise HostError(f"host {_shown(text)} has an IPv6 zone")
    if parsed.ipv4_mapped is not None:
        raise HostError(f"host {_shown(text)} is an IPv4 address inside IPv6: write it as IPv4")
    return parsed.compressed


def _shown(text: str) -> str:
    """The text as it may stand in a message: bounded, and printable because of ``ascii``."""
    return ascii(text if len(text) <= 80 else text[:77] + "...")
