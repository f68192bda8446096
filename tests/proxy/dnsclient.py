"""Queries to the stub resolver, encoded and decoded by hand: the parser under test has no part in it."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import struct
from dataclasses import dataclass

UDP = socket.SOCK_DGRAM
A, SOA, TXT, AAAA, OPT, HTTPS, ANY = 1, 6, 16, 28, 41, 65, 255
NOERROR, FORMERR, SERVFAIL, NXDOMAIN, NOTIMP, REFUSED = range(6)
_TRIES = 10
_OPT_RECORD = b"\0" + struct.pack("!HHIH", OPT, 4096, 0, 0)


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back."""

    raw: bytes
    id: int
    flags: int
    counts: tuple[int, int, int, int]
    source: tuple[str, int] | None = None

    @property
    def code(self) -> int:
        return self.flags & 0xF

    @property
    def address(self) -> str:
        """The one IPv4 address that the answer has."""
        assert (self.code, self.counts[1]) == (NOERROR, 1), self
        record = self.raw[: len(self.raw) - self.counts[3] * 11]
        kind, _, _, length = struct.unpack("!HHIH", record[-14:-4])
        assert (kind, length) == (A, 4)
        return str(ipaddress.IPv4Address(record[-4:]))


def name(text: str) -> bytes:
    labels = [label.encode("latin-1") for label in text.split(".") if label]
    return b"".join(bytes([len(label)]) + label for label in labels) + b"\0"


def query(text: str, kind: int = A, *, edns: bool = False, flags: int = 0x0100, number: int = 4711) -> bytes:
    header = struct.pack("!6H", number, flags, 1, 0, 0, int(edns))
    return header + name(text) + struct.pack("!HH", kind, 1) + (_OPT_RECORD if edns else b"")


def parse(raw: bytes, source: tuple[str, int] | None = None) -> Reply:
    number, flags, *counts = struct.unpack("!6H", raw[:12])
    return Reply(raw, number, flags, (counts[0], counts[1], counts[2], counts[3]), source)


def ask(
    client: socket.socket, server: tuple[str, int], text: str, kind: int = A, *, edns: bool = False
) -> Reply:
    """Ask over UDP, again every second while there is no answer: datagrams get lost, on a link that is just
    coming up or in a flood. The answer must come from the address that was asked."""
    client.settimeout(1.0)
    for _ in range(_TRIES):
        client.sendto(query(text, kind, edns=edns), server)
        with contextlib.suppress(TimeoutError):
            raw, source = client.recvfrom(4096)
            assert source == server
            return parse(raw, source)
    raise AssertionError(f"no answer to {_TRIES} queries for {text}")
