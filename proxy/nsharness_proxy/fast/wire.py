"""Heads on the wire: what of an answer's goes on, and both kinds as bytes. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from nsharness.policy.headers import Field

LAST_CHUNK: Final = b"0\r\n\r\n"

# RFC 9110 section 7.6.1.
_HOP_BY_HOP: Final = frozenset({b"connection", b"keep-alive", b"proxy-connection", b"upgrade"})
_END_TO_END: Final = frozenset(
    {b"content-encoding", b"content-length", b"content-range", b"content-type", b"transfer-encoding"}
)


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


def of_answer(fields: Sequence[Field], status: int) -> list[Field]:
    """What of an answer's fields is about the answer: the rest was about the host's connection. A host cannot
    make its message mean something else by calling what frames or describes it its own."""
    lowered = [name.lower() for name, _ in fields]
    dropped = _HOP_BY_HOP
    if b"connection" in lowered:
        listed = {
            option.strip(b" \t").lower()
            for name, (_, value) in zip(lowered, fields, strict=True)
            if name == b"connection"
            for option in value.split(b",")
        }
        dropped = dropped | (listed - _END_TO_END)
    if status == 304:
        # It may say how the body that it does not have would be framed (RFC 9112 section 6.1).
        dropped = dropped | {b"transfer-encoding"}
    return [field for name, field in zip(lowered, fields, strict=True) if name not in dropped]
