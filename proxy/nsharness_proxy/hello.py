"""The first message of a TLS client, read before anything answers it: which host it names, and which
protocols it offers. Pure.

    record      = 22, version (2), length (2), fragment                  RFC 8446 section 5.1
    handshake   = 1, length (3), ClientHello                             section 4
    ClientHello = version (2), random (32), session id <1>, cipher suites <2>, compression methods <1>,
                  extensions <2>                                         section 4.1.2
    extension   = type (2), data <2>                                     section 4.2

where <n> is a length of n bytes and as many bytes. Lengths that do not add up are no message.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from nsharness.policy.hosts import HostError, canonical_host

MAX_HELLO: Final = 16 * 1024
"""Bytes of a first message at most: with post-quantum keys they are 2 KiB long."""
NOT_TLS: Final = "not-tls"
ALERT: Final = b"\x15\x03\x03\x00\x02\x02\x70"
"""A fatal alert, unrecognized_name (section 6): clients say so instead of "connection closed"."""

_RECORD: Final = 5
_HANDSHAKE: Final = 22
_CLIENT_HELLO: Final = 1
_MAX_FRAGMENT: Final = 1 << 14
_SERVER_NAME, _PROTOCOLS = 0, 16


class HelloError(ValueError):
    """A first message that names no host, or cannot be read; the text is a reason for the audit log."""


@dataclass(frozen=True, slots=True)
class Hello:
    """What of the message is of use here. ``sni`` is the name as it came, where there is exactly one (RFC
    6066 section 3); ``protocols`` are those of ALPN (RFC 7301)."""

    sni: str | None
    protocols: tuple[bytes, ...]


def starts_tls(data: bytes) -> bool:
    """Whether the first three bytes are those of a TLS record with a handshake in it."""
    return data[0] == _HANDSHAKE and data[1] == 3 and data[2] <= 3


def client_hello(data: bytes) -> Hello | None:
    """The message that ``data`` begins with; None while it is incomplete. ``HelloError`` if it is none."""
    extensions = _extensions(data)
    if extensions is None:
        return None
    try:
        name: str | None = _only_name([body for kind, body in extensions if kind == _SERVER_NAME])
    except HelloError:
        name = None
    offered = [body for kind, body in extensions if kind == _PROTOCOLS]
    if len(offered) > 1:
        raise HelloError(NOT_TLS)
    return Hello(name, tuple(_list_of_protocols(offered[0])) if offered else ())


def server_name(data: bytes) -> str | None:
    """The canonical host that a TLS client asks for, None while its first message is incomplete.
    ``HelloError`` unless it is a ClientHello with exactly one name."""
    extensions = _extensions(data)
    if extensions is None:
        return None
    named = [body for kind, body in extensions if kind == _SERVER_NAME]
    if not named:
        raise HelloError("sni-missing")
    try:
        return canonical_host(_only_name(named))
    except HostError:
        raise HelloError("sni-malformed") from None


def _only_name(bodies: list[bytes]) -> str:
    """Whoever finds two names may take the other: there is one extension with one name and nothing else."""
    if len(bodies) != 1:
        raise HelloError("sni-malformed")
    names = _Reader(bodies[0], "sni-malformed")
    entry = _Reader(names.counted(2), "sni-malformed")
    kind, name = entry.number(1), entry.counted(2)
    if kind != 0 or names.left or entry.left or not name:
        raise HelloError("sni-malformed")
    try:
        return name.decode("ascii")
    except UnicodeDecodeError:
        raise HelloError("sni-malformed") from None


def _list_of_protocols(body: bytes) -> Iterator[bytes]:
    outer = _Reader(body)
    inner = _Reader(outer.counted(2))
    if outer.left:
        raise HelloError(NOT_TLS)
    while inner.left:
        yield inner.counted(1)


def _extensions(data: bytes) -> list[tuple[int, bytes]] | None:
    message = _message(data)
    if message is None:
        if len(data) > MAX_HELLO:
            raise HelloError(NOT_TLS)
        return None
    hello = _Reader(message)
    hello.take(34)
    hello.counted(1)
    hello.counted(2)
    hello.counted(1)
    if not hello.left:
        return []
    rest = _Reader(hello.counted(2))
    if hello.left:
        raise HelloError(NOT_TLS)
    found = []
    while rest.left:
        found.append((rest.number(2), rest.counted(2)))
    return found


def _message(data: bytes) -> bytes | None:
    """The message without its four bytes of head, put together out of its records (section 5.1)."""
    message, at = b"", 0
    while True:
        head = data[at : at + _RECORD]
        version = head[1:3]
        if head and (head[0] != _HANDSHAKE or not (b"\3\0"[: len(version)] <= version <= b"\3\3")):
            raise HelloError(NOT_TLS)
        size = int.from_bytes(head[3:5])
        if len(head) < _RECORD:
            return None
        if not 0 < size <= _MAX_FRAGMENT:
            raise HelloError(NOT_TLS)
        fragment = data[at + _RECORD : at + _RECORD + size]
        message += fragment
        if message and message[0] != _CLIENT_HELLO:
            raise HelloError(NOT_TLS)
        if len(fragment) < size:
            return None
        end = 4 + int.from_bytes(message[1:4])
        if len(message) >= 4 and len(message) >= end:
            return message[4:end]
        at += _RECORD + size
        if at >= len(data):
            return None


class _Reader:
    """Takes bytes off the front of some; too few of them is a ``HelloError``."""

    __slots__ = ("_data", "_why")

    def __init__(self, data: bytes, why: str = NOT_TLS) -> None:
        self._data = data
        self._why = why

    @property
    def left(self) -> int:
        return len(self._data)

    def take(self, count: int) -> bytes:
        if count > len(self._data):
            raise HelloError(self._why)
        taken, self._data = self._data[:count], self._data[count:]
        return taken

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size))

    def counted(self, size: int) -> bytes:
        return self.take(self.number(size))
