"""The answers of the stub resolver: one query in, one answer out, nobody else is ever asked.

An allowed name has one address, of this sandbox's own making; every other type of record is empty,
and every other name does not exist. Nothing may be cached longer than the run lasts.

A query is read as strictly as can be: one question, whose name has one reading. A label with a dot in it
would be two labels to others; a pointer (RFC 1035 section 4.1.4) has nothing to point to.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

MAX_QUERY: Final = 4096

_HEADER: Final = struct.Struct("!6H")
_QUESTION: Final = struct.Struct("!HH")
_RECORD: Final = struct.Struct("!HHIH")

# RFC 1035 sections 3.2 and 4.1.1, RFC 6891 section 6.1.1.
_A: Final = 1
_SOA: Final = 6
_OPT: Final = 41
_IN: Final = 1
_NOERROR, _FORMERR, _NXDOMAIN, _NOTIMP, _REFUSED = 0, 1, 3, 4, 5
_ANSWERS: Final = 0x8000
_AUTHORITATIVE: Final = 0x0400
_RECURSION_DESIRED: Final = 0x0100
_RECURSION_AVAILABLE: Final = 0x0080

_MAX_LABEL: Final = 63
_MAX_NAME: Final = 255
_TTL: Final = 60
_EDNS_PAYLOAD: Final = 1232
# RFC 6891 section 6.1.3: the upper eight bits of the response code stand in the OPT record.
_BADVERS: Final = 1 << 24
_ROOT: Final = b"\0"
# The name of the question, which is the first thing behind the header.
_THE_NAME: Final = struct.pack("!H", 0xC000 | _HEADER.size)
# Root as its owner: an ancestor of every name, and nothing about us.
_NOTHING: Final = _ROOT + _RECORD.pack(_SOA, _IN, 0, 22) + _ROOT + _ROOT + struct.pack("!5I", 1, 0, 0, 0, 0)

Resolve = Callable[[str], str | None]
"""Gives the IPv4 address of a name, or None where there is no such name."""


class _MalformedError(Exception):
    """The bytes are no query."""


@dataclass(frozen=True, slots=True)
class _Query:
    question: bytes
    name: str
    kind: int
    group: int
    options: tuple[int, ...]
    """What each OPT record has in the place of a lifetime."""


def answer(query: bytes, resolve: Resolve) -> bytes | None:
    """The answer to a query; None for what is no query at all and gets none.

    Malformed queries get FORMERR, other operations NOTIMP, classes but IN REFUSED (RFC 1035 section 4.1.1).
    """
    if len(query) < _HEADER.size or query[2] & 0x80:
        return None
    if len(query) > MAX_QUERY:
        return _error(query, _FORMERR)
    if (query[2] >> 3) & 0xF:
        return _error(query, _NOTIMP)
    try:
        asked = _read(query)
    except (_MalformedError, struct.error):
        return _error(query, _FORMERR)
    extended = asked.options[0] if asked.options else 0
    if (extended >> 16) & 0xFF:
        return _reply(query, asked, _NOERROR, extended=_BADVERS)
    if asked.group != _IN:
        return _reply(query, asked, _REFUSED)
    address = resolve(asked.name) if asked.name else None
    if address is None:
        return _reply(query, asked, _NXDOMAIN, authority=_NOTHING)
    if asked.kind != _A:
        return _reply(query, asked, _NOERROR, authority=_NOTHING)
    packed = socket.inet_aton(address)
    return _reply(query, asked, _NOERROR, found=_THE_NAME + _RECORD.pack(_A, _IN, _TTL, 4) + packed)


def _read(query: bytes) -> _Query:
    _, _, questions, answers, authorities, additionals = _HEADER.unpack_from(query)
    if (questions, answers, authorities) != (1, 0, 0):
        raise _MalformedError
    name, place = _name(query, _HEADER.size)
    kind, group = _QUESTION.unpack_from(query, place)
    place += _QUESTION.size
    question = query[_HEADER.size : place]
    options: list[int] = []
    for _ in range(additionals):
        _, place = _name(query, place)
        record, _, lifetime, length = _RECORD.unpack_from(query, place)
        place += _RECORD.size + length
        if record == _OPT:
            options.append(lifetime)
    # RFC 6891 section 6.1.1: there is one of them at most.
    if place != len(query) or len(options) > 1:
        raise _MalformedError
    return _Query(question, name, kind, group, tuple(options))


def _name(query: bytes, place: int) -> tuple[str, int]:
    """The name that stands at ``place``, and where it ends (RFC 1035 section 3.1)."""
    labels: list[bytes] = []
    begin = place
    while place < len(query) and place - begin < _MAX_NAME:
        length = query[place]
        place += 1
        if not length:
            return b".".join(labels).decode("ascii"), place
        label = query[place : place + length]
        if length > _MAX_LABEL or len(label) < length or not label.isascii() or b"." in label:
            break
        labels.append(label)
        place += length
    raise _MalformedError


def _reply(
    query: bytes, asked: _Query, code: int, *, found: bytes = b"", authority: bytes = b"", extended: int = 0
) -> bytes:
    flags = _ANSWERS | _AUTHORITATIVE | _RECURSION_AVAILABLE | (query[2] << 8 & _RECURSION_DESIRED) | code
    counts = (1, int(bool(found)), int(bool(authority)), len(asked.options))
    options = _ROOT + _RECORD.pack(_OPT, _EDNS_PAYLOAD, extended, 0) if asked.options else b""
    (number,) = struct.unpack_from("!H", query)
    return _HEADER.pack(number, flags, *counts) + asked.question + found + authority + options


def _error(query: bytes, code: int) -> bytes:
    """An error answer without question: the identifier and the operation are all that can be repeated."""
    flags = _ANSWERS | (query[2] << 8 & 0x7900) | code
    return query[:2] + struct.pack("!5H", flags, 0, 0, 0, 0)
