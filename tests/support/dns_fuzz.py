"""Queries to the stub resolver by chance, most of them nearly right, and what is wrong with an answer."""

from __future__ import annotations

import random
import struct

from nsharness_proxy import dns

ADDRESS = "198.18.0.1"
ALLOWED = "wiki.local"
_OPT = b"\0" + struct.pack("!HHIH", 41, 4096, 0, 0)
_NAMES = (
    "wiki.local",
    "WIKI.local",
    "evil.local",
    "x.wiki.local",
    "local",
    "",
    "wiki.local.evil.example",
    "xn--bcher-kva.local",
)
_HEADER = 12


def random_query(rng: random.Random) -> bytes:
    """A query, whole or damaged in a few places; now and then no query at all."""
    if rng.random() < 0.05:
        return rng.randbytes(rng.choice((0, 5, 11, 12, 13, 40, 600, 5000)))
    edns = rng.random() < 0.3
    questions = rng.choices((0, 1, 2, 65535), (1, 20, 1, 1))[0]
    header = struct.pack(
        "!6H", rng.randrange(65536), rng.choice((0x0100, 0, 0x8180, 0x2800)), questions, 0, 0, int(edns)
    )
    data = (
        header
        + _name(rng)
        + struct.pack("!HH", rng.choice((1, 1, 28, 65, 255, 6)), rng.choice((1, 1, 3, 255)))
    )
    data += _OPT * rng.choice((int(edns), 0, 2))
    return _damaged(rng, data) if rng.random() < 0.6 else data


def _name(rng: random.Random) -> bytes:
    labels = [label.encode() for label in rng.choice(_NAMES).split(".") if label]
    if rng.random() < 0.3:
        # A dot in a label, a label of every length, bytes that are no text, a great many of them.
        labels.insert(
            rng.randrange(len(labels) + 1), rng.randbytes(rng.randrange(1, 64)).replace(b"\0", b".")
        )
        labels *= rng.choice((1, 1, 1, 9))
    end = rng.choice((b"\0", b"\0", b"\0", b"\xc0\x0c", b"\xc0\x00", b"\xff\xff", b""))
    return b"".join(bytes([len(label)]) + label for label in labels) + end


def _damaged(rng: random.Random, data: bytes) -> bytes:
    damaged = bytearray(data)
    for _ in range(rng.randrange(1, 5)):
        place = rng.randrange(len(damaged) + 1)
        match rng.randrange(4):
            case 0:
                damaged[place : place + 1] = rng.randbytes(1)
            case 1:
                del damaged[place:]
            case 2:
                damaged[place:place] = rng.randbytes(rng.randrange(1, 8))
            case 3:
                del damaged[place : place + rng.randrange(1, 8)]
        if not damaged:
            break
    return bytes(damaged)


def wrong(query: bytes) -> str:
    """What is wrong with the answer to a query, if anything."""
    asked: list[str] = []

    def resolve(name: str) -> str | None:
        asked.append(name)
        return ADDRESS if name.lower() == ALLOWED else None

    reply = dns.answer(query, resolve)
    if reply is None:
        return "" if len(query) < _HEADER or query[2] & 0x80 else "no answer"
    number, flags, questions, answers, _, _ = struct.unpack("!6H", reply[:_HEADER])
    if number != struct.unpack("!H", query[:2])[0] or not flags & 0x8000:
        return "not an answer to this query"
    if len(reply) > len(query) + 40:
        return "an answer much larger than its query"
    labels, end = _labels(query)
    meant = ".".join(labels) if labels is not None else None
    if len(asked) > 1 or (asked and _plain(asked[0]) != (meant or "").lower()):
        return f"asked for {asked}, where the query's name is {meant!r}"
    if questions and reply[_HEADER : end + 4] != query[_HEADER : end + 4]:
        return "another question than was asked"
    if answers:
        kind, group = struct.unpack("!HH", query[end : end + 4])
        if (meant or "").lower() != ALLOWED or (kind, group) != (1, 1) or ADDRESS_BYTES not in reply:
            return "an address where there is none"
    elif flags & 0xF == 0 and questions and meant is not None and meant.lower() != ALLOWED:
        # BADVERS is told in the OPT record alone.
        return "" if reply.endswith(b"\1\0\0\0\0\0") else "a name that does not exist, exists"
    return ""


def _plain(name: str) -> str:
    """A name as it stands in a query: the parser decodes its A-labels."""
    return name.lower() if name.isascii() else name.encode("idna").decode("ascii").lower()


ADDRESS_BYTES = bytes([198, 18, 0, 1])


def _labels(query: bytes) -> tuple[list[str] | None, int]:
    """The labels of the one question, read as in RFC 1035 section 3.1, and where its name ends; None for
    what is no such name. The parser under test has no part in it."""
    found: list[str] = []
    place = _HEADER
    while place < len(query):
        length = query[place]
        place += 1
        if length == 0:
            return found, place
        if length > 63 or place + length > len(query):
            break
        label = query[place : place + length]
        if b"." in label:
            break
        found.append(label.decode("latin-1"))
        place += length
    return None, place
