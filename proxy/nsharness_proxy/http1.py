"""HTTP/1.1 read strictly: what two servers could take for two different things is no message. Pure.

Smuggling (K6) lives on differences between readers: one ends a line at a bare LF, another does not; one
believes the first of two lengths, another the second; one takes a tab for a space. So this reader has no
leniency that RFC 9112 merely allows. Bytes go in, a verdict comes out; where they are cut into segments makes
no difference.

    message   = start-line *( field-line CRLF ) CRLF [ body ]            section 2.1
    request   = token SP target SP HTTP-version CRLF                     section 3, single spaces
    status    = HTTP-version SP 3DIGIT [ SP reason ] CRLF                section 4
    field     = token ":" OWS value OWS                                  section 5; no folding (5.2)
    framing   = one Content-Length, or Transfer-Encoding: chunked alone  section 6
    chunk     = 1*16HEXDIG [ extensions ] CRLF data CRLF                 section 7.1
    trailers  = *( field-line CRLF ) CRLF                                section 7.1.2, bounded and dropped

Versions are 1.0 and 1.1. A length has at most 18 digits, a chunk's at most 15: both fit into the 64 bits that
others use. The engine parses a head only after it was found to be one of these.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from nsharness.policy.headers import Field

MAX_HEAD: Final = 64 * 1024
"""Bytes of a request's or an answer's head, and of a body's trailers, at most."""
MAX_CHUNK_LINE: Final = 4096
"""Bytes of a line with a chunk's size at most: nobody needs more of its extensions."""

_TOKEN: Final = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_FIELDS: Final = rb"((?:" + _TOKEN + rb":[\t\x20-\x7e\x80-\xff]*\r\n)*)"
# Of lines that are fields.
_FIELD: Final = re.compile(rb"([^:]+):([^\r]*)\r\n")
_REQUEST: Final = re.compile(
    rb"(" + _TOKEN + rb") ([\x21-\x7e\x80-\xff]+) HTTP/1\.([01])\r\n" + _FIELDS + rb"\r\n"
)
_ANSWER: Final = re.compile(
    rb"HTTP/1\.([01]) ([1-9][0-9]{2})(?: ([\t\x20-\x7e\x80-\xff]*))?\r\n" + _FIELDS + rb"\r\n"
)
_VERSION: Final = b"HTTP/1."
_METHOD_START: Final = re.compile(_TOKEN[:-1])
_TELLING: Final = frozenset(
    map(len, ("connection", "content-length", "transfer-encoding", "expect", "upgrade"))
)
_LENGTH: Final = re.compile(rb"0|[1-9][0-9]{0,17}")
_QUOTED: Final = rb'"(?:[\t \x21\x23-\x5b\x5d-\x7e\x80-\xff]|\\[\t\x20-\x7e\x80-\xff])*"'
# No white space, which the grammar calls bad; possessive, so that a line that is none takes no longer.
CHUNK_LINE: Final = re.compile(
    rb"([0-9A-Fa-f]{1,15})(?:;" + _TOKEN + rb"(?:=(?:" + _TOKEN + rb"|" + _QUOTED + rb"))?)*+\r\n"
)
FIELD_LINE: Final = re.compile(_TOKEN + rb":[\t\x20-\x7e\x80-\xff]*\r\n")


@dataclass(frozen=True, slots=True)
class Block:
    """The field lines of a head, and what they say of the message and its connection."""

    lines: bytes
    version: bytes
    fields: tuple[Field, ...]
    length: int | None
    """What Content-Length says; None where there is none."""
    chunked: bool
    closes: bool
    """Whether its sender ends the connection after this message."""
    expects: bool
    """Whether there is an Expect field."""
    upgrades: bool
    """Whether there is an Upgrade field."""


@dataclass(frozen=True, slots=True)
class Head:
    """A head that is one. ``status`` is 0 for a request; method and target are empty for an answer."""

    size: int
    block: Block
    method: bytes = b""
    target: bytes = b""
    status: int = 0
    reason: bytes = b""

    @property
    def version(self) -> bytes:
        return self.block.version

    @property
    def fields(self) -> tuple[Field, ...]:
        return self.block.fields

    @property
    def length(self) -> int | None:
        """What Content-Length says; None where there is none."""
        return self.block.length

    @property
    def chunked(self) -> bool:
        return self.block.chunked

    @property
    def closes(self) -> bool:
        """Whether its sender ends the connection after this message."""
        return self.block.closes

    @property
    def has_body(self) -> bool:
        """Whether a request with this head has a body (section 6.3)."""
        return self.block.chunked or bool(self.block.length)


class HeadError(Exception):
    """The bytes are no head, whatever may follow. The text quotes none of them."""


class HeadTooLargeError(HeadError):
    """More than ``MAX_HEAD`` bytes."""


def request_head(data: bytes, last: Block | None = None) -> Head | None:
    """The head that ``data`` begins with; None while it is incomplete. ``HeadError`` when it is none.

    Empty lines before it are the caller's to take away (section 2.2). ``last`` is the block of the
    connection's last request, which is given again where this one has the same lines.
    """
    if data and not _METHOD_START.match(data) and data != b"\r":
        raise HeadError("it does not begin with a method")
    head = _complete(data)
    if head is None:
        return None
    match = _REQUEST.fullmatch(head)
    if match is None:
        raise HeadError("its lines are no request")
    method, target, minor, lines = match.groups()
    version = _VERSION + minor
    block = last if last is not None and (last.lines, last.version) == (lines, version) else None
    made = Head(len(head), block or _block(lines, version), method, target)
    if method == b"CONNECT" and made.has_body:
        # Does what follows belong to it or to the tunnel? Nobody could tell (RFC 9110 section 9.3.6).
        raise HeadError("a tunnel cannot be asked for with a body")
    return made


def answer_head(data: bytes) -> Head | None:
    """The same of an answer, also an interim one. Nothing may stand before it."""
    if data[: len(_VERSION)] != _VERSION[: len(data)]:
        raise HeadError("it does not begin with a version")
    head = _complete(data)
    if head is None:
        return None
    match = _ANSWER.fullmatch(head)
    if match is None:
        raise HeadError("its lines are no answer")
    minor, status, reason, lines = match.groups()
    return Head(len(head), _block(lines, _VERSION + minor), status=int(status), reason=reason or b"")


def _complete(data: bytes) -> bytes | None:
    at = data.find(b"\n\r\n")
    end = at + 3 if at >= 0 else 0
    # With a bare LF, so that a head which ends in one is complete, and found to be none. Not looked for in
    # what follows the head, which may be long.
    bare = data.find(b"\n\n", 0, at + 1 if at >= 0 else len(data))
    if bare >= 0:
        end = bare + 2
    if (end or len(data)) > MAX_HEAD:
        raise HeadTooLargeError("it is too large")
    return data[:end] if end else None


def _block(lines: bytes, version: bytes) -> Block:
    """The body's length is said by one field (section 6.3). The connection ends after the message where a
    field says so (section 9.3), and with HTTP/1.0 always: its ``keep-alive`` is an extension that proxies
    misread (C.2.2)."""
    fields = tuple([(name, value.strip(b" \t")) for name, value in _FIELD.findall(lines)])
    length: bytes | None = None
    chunked, closes = False, version == b"HTTP/1.0"
    expects = upgrades = False
    for name, value in fields:
        if len(name) not in _TELLING:
            continue
        name = name.lower()
        if name == b"connection":
            closes = closes or any(option.strip(b" \t").lower() == b"close" for option in value.split(b","))
        elif name in (b"content-length", b"transfer-encoding"):
            if chunked or length is not None:
                raise HeadError("its length is given twice")
            if name == b"content-length":
                if not _LENGTH.fullmatch(value):
                    raise HeadError("its length is no number")
                length = value
            elif value.lower() != b"chunked" or version == b"HTTP/1.0":
                raise HeadError("it has a transfer coding that is not chunked")
            else:
                chunked = True
        elif name == b"expect":
            expects = True
        elif name == b"upgrade":
            upgrades = True
    known = None if length is None else int(length)
    return Block(lines, version, fields, known, chunked, closes, expects, upgrades)
