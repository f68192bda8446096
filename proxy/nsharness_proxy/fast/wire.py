"""Heads on the wire, as bytes. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from nsharness.policy.headers import Field

LAST_CHUNK: Final = b"0\r\n\r\n"


class TargetError(ValueError):
    """A request target that is in none of the forms that a proxy takes."""


def split_target(target: bytes) -> tuple[str, str, bytes]:
    """Scheme, authority and origin form of a request target (RFC 9112 section 3.2); in origin form and in
    asterisk form the first two are empty."""
    if target[:1] == b"/" or target == b"*":
        return "", "", target
    scheme, separator, rest = target.partition(b"://")
    name = scheme.lower()
    authority, _, path = rest.partition(b"/")
    known = separator and name in (b"http", b"https") and authority
    if not known or not path.partition(b"?")[0].isascii():
        raise TargetError
    return name.decode("ascii"), authority.decode("utf-8", "surrogateescape"), b"/" + path


def go_on(version: bytes) -> bytes:
    """What a client is told that waits before it sends a body. One of HTTP/1.0 would take it for the answer:
    it is told nothing (RFC 9110 section 10.1.1)."""
    return b"" if version == b"HTTP/1.0" else b"HTTP/1.1 100 Continue\r\n\r\n"


def request_head(method: bytes, target: bytes, version: bytes, fields: Iterable[Field]) -> bytes:
    """A request's head as it is sent."""
    lines = [method + b" " + target + b" " + version]
    lines += [name + b": " + value for name, value in fields]
    return b"\r\n".join(lines) + b"\r\n\r\n"


def answer_head(version: bytes, status: int, reason: bytes, fields: Iterable[Field]) -> bytes:
    """The same of an answer."""
    lines = [b"%s %d %s" % (version, status, reason)]
    lines += [name + b": " + value for name, value in fields]
    return b"\r\n".join(lines) + b"\r\n\r\n"


def chunk(data: bytes) -> bytes:
    """A chunk; the empty one would be the last."""
    return b"%x\r\n%s\r\n" % (len(data), data) if data else b""
