r"""The corpus of ambiguous and hostile requests in ``data/smuggling.txt``: how it is written, and read.

A case begins with ``=== name``. Until a line ``---`` follow facts about it, then what a client sends:
every line ends with CR LF, but where it ends with a backslash. Escapes: ``\r \n \t \0 \s`` (a space)
``\\ \xhh``, ``\(a*100)`` for 100 times ``a``, and ``\|`` where a TCP segment ends. Facts:

``expect refused``
    A status 4xx and the end of the connection. Nothing goes to a host, not what follows either.
``expect cut``
    The connection ends in the middle of a request: the host sees at most a part of it, nothing after.
``expect 200 403``
    The answers, in their order; with ``close`` after them the connection ends there, else the next
    request on it is served.
``upstream METHOD TARGET HOST [BODY]``
    A request that a host gets, in full and in this order. Without such lines there is none.
``roads forward transparent tunnel``
    The ways on which the case is tried; all, if absent.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROADS = ("forward", "transparent", "tunnel")
HOST = "docs.test"
"""The host of the corpus: as long as the address that transparent connections lead to."""
DIALLED = "127.0.0.1"

_ESCAPE = re.compile(r"\n|\\(?:\n|x[0-9a-f]{2}|\((.[^)]*?)\*(\d+)\)|.)")
_PLAIN = {"r": "\r", "n": "\n", "t": "\t", "0": "\0", "s": " ", "\\": "\\", "|": "\uffff", "\n": ""}


@dataclass(frozen=True, slots=True)
class Case:
    """One case; ``upstream`` has method, target, host and body of each request that goes on."""

    name: str
    pieces: tuple[bytes, ...]
    outcome: str
    statuses: tuple[int, ...] = ()
    closes: bool = False
    upstream: tuple[tuple[str, str, str, bytes], ...] = ()
    roads: tuple[str, ...] = ROADS

    @property
    def data(self) -> bytes:
        return b"".join(self.pieces)


@dataclass
class _Facts:
    expect: str = ""
    upstream: list[str] = field(default_factory=list)
    roads: str = " ".join(ROADS)


def load(path: Path) -> Iterator[Case]:
    """The cases of a file; ``ValueError`` says what is wrong with it."""
    _, *blocks = re.split(r"(?m)^=== ", path.read_text(encoding="ascii"))
    for block in blocks:
        name, _, rest = block.partition("\n")
        head, separator, sent = rest.partition("---\n")
        if not separator:
            raise ValueError(f"{name}: no line ---")
        yield _case(name, head, sent)


def _case(name: str, head: str, sent: str) -> Case:
    facts = _Facts()
    for line in head.splitlines():
        key, _, value = line.partition(" ")
        if key == "upstream":
            facts.upstream.append(value)
        elif key in ("expect", "roads"):
            setattr(facts, key, value)
        else:
            raise ValueError(f"{name}: unknown fact {key}")
    words = facts.expect.split()
    numbers = tuple(int(word) for word in words if word.isdigit())
    outcome = "served" if numbers else words[0]
    if outcome not in ("served", "refused", "cut") or (facts.upstream and not numbers):
        raise ValueError(f"{name}: contradictory facts")
    roads = tuple(facts.roads.split())
    if not set(roads) <= set(ROADS):
        raise ValueError(f"{name}: unknown roads")
    upstream = tuple(_request(line) for line in facts.upstream)
    pieces = tuple(unescape(sent))
    return Case(name, pieces, outcome, numbers, "close" in words, upstream, roads)


def _request(line: str) -> tuple[str, str, str, bytes]:
    method, target, host, *body = line.split(" ", 3)
    plain, *_ = unescape(target)
    return method, plain.decode("latin-1"), host, b"".join(unescape("".join(body)))


def unescape(text: str) -> list[bytes]:
    """The bytes that a text stands for, cut where segments end."""
    plain = _ESCAPE.sub(_byte, text)
    return [piece.encode("latin-1") for piece in plain.split("\uffff")]


def _byte(match: re.Match[str]) -> str:
    text = match[0]
    if text == "\n":
        return "\r\n"
    if match[1] is not None:
        return _ESCAPE.sub(_byte, match[1]) * int(match[2])
    return chr(int("0" + text[1:], 0)) if len(text) == 4 else _PLAIN[text[1:]]
