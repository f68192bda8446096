"""The answers of the stub resolver: one query in, one answer out, nobody else is ever asked.

An allowed name has one address, of this sandbox's own making; every other type of record is empty,
and every other name does not exist. Nothing may be cached longer than the run lasts.
"""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Callable
from typing import Final

from mitmproxy import dns
from mitmproxy.net.dns import classes, domain_names, op_codes, response_codes, types

MAX_QUERY: Final = 4096
_HEADER: Final = 12
_TTL: Final = 60
_EDNS_PAYLOAD: Final = 1232
# RFC 6891 section 6.1.3: the upper eight bits of the response code stand in the OPT record.
_BADVERS: Final = 1 << 24
# Root as its owner: an ancestor of every name, and nothing about us.
_SOA: Final = dns.ResourceRecord(
    name="", type=types.SOA, class_=classes.IN, ttl=0, data=b"\0\0" + struct.pack("!5I", 1, 0, 0, 0, 0)
)

Resolve = Callable[[str], str | None]
"""Gives the IPv4 address of a name, or None where there is no such name."""


def answer(query: bytes, resolve: Resolve) -> bytes | None:
    """The answer to a query; None for what is no query at all and gets none.

    Malformed queries get FORMERR, other operations NOTIMP, classes but IN REFUSED (RFC 1035 section 4.1.1).
    """
    if len(query) < _HEADER or query[2] & 0x80:
        return None
    if len(query) > MAX_QUERY:
        return _header_only(query, response_codes.FORMERR)
    if (query[2] >> 3) & 0xF != op_codes.QUERY:
        return _header_only(query, response_codes.NOTIMP)
    message = _parse(query)
    if message is None:
        return _header_only(query, response_codes.FORMERR)
    return _reply(message, resolve).packed


def _reply(message: dns.DNSMessage, resolve: Resolve) -> dns.DNSMessage:
    question = message.questions[0]
    options = [record for record in message.additionals if record.type == types.OPT]
    if len(options) > 1:
        return message.fail(response_codes.FORMERR)
    reply = message.succeed([])
    reply.authoritative_answer = True
    if options:
        reply.additionals = [_opt(0)]
        if (options[0].ttl >> 16) & 0xFF:
            reply.additionals = [_opt(_BADVERS)]
            return reply
    if question.class_ != classes.IN:
        reply.response_code = response_codes.REFUSED
        return reply
    address = resolve(question.name) if question.name else None
    if address is None:
        reply.response_code = response_codes.NXDOMAIN
        reply.authorities = [_SOA]
    elif question.type == types.A:
        reply.answers = [dns.ResourceRecord.A(question.name, ipaddress.IPv4Address(address), ttl=_TTL)]
    else:
        reply.authorities = [_SOA]
    return reply


def _parse(query: bytes) -> dns.DNSMessage | None:
    """The message, if it is one question that reads back as the bytes it was read from.

    The parser takes a label with a dot in it for two labels, and decodes A-labels: what does not come
    out as it went in has two readings.
    """
    try:
        message = dns.DNSMessage.unpack(query)
        if len(message.questions) != 1 or message.answers or message.authorities:
            return None
        question = message.questions[0]
        packed = domain_names.pack(question.name)
    except (struct.error, ValueError, IndexError, RecursionError):
        return None
    return message if query[_HEADER:].startswith(packed) else None


def _header_only(query: bytes, code: int) -> bytes:
    """An error answer without question: the identifier and the operation are all that can be repeated."""
    flags = 0x8000 | (query[2] << 8 & 0x7900) | code
    return query[:2] + struct.pack("!5H", flags, 0, 0, 0, 0)


def _opt(extended: int) -> dns.ResourceRecord:
    return dns.ResourceRecord(name="", type=types.OPT, class_=_EDNS_PAYLOAD, ttl=extended, data=b"")
