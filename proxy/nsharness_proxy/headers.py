"""The header fields of a request between client and host: pure functions on lists of pairs.

Fields are pairs of bytes as the engine has them, names in the client's spelling.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

Field = tuple[bytes, bytes]

# RFC 9110 section 7.6.1; HTTP2-Settings belongs to an upgrade that is never made (RFC 7540 section 3.2.1).
_CONNECTION = frozenset({b"connection", b"keep-alive", b"te", b"trailer", b"upgrade", b"http2-settings"})
# What a Connection header may not take away: without these the request would be another one.
_ESSENTIAL = frozenset({b"host", b"content-length", b"transfer-encoding", b"expect"})


def values(fields: Iterable[Field], name: bytes) -> tuple[str, ...]:
    """All values of a header, unjoined; bytes that are no UTF-8 become surrogates, which no host has."""
    return tuple(value.decode("utf-8", "surrogateescape") for key, value in fields if key.lower() == name)


def is_websocket(method: str, fields: Sequence[Field]) -> bool:
    """Whether a request asks for the one upgrade that is passed on (RFC 6455 section 4.1)."""
    return (
        method == "GET"
        and values(fields, b"upgrade") != ()
        and [v.lower() for v in values(fields, b"upgrade")] == ["websocket"]
        and b"upgrade" in _connection_tokens(fields)
        and values(fields, b"sec-websocket-version") == ("13",)
        and len(values(fields, b"sec-websocket-key")) == 1
    )


def outgoing(fields: Sequence[Field], injected: Iterable[str], *, websocket: bool) -> list[Field]:
    """What of a client's header fields goes on to the host.

    Left out are those of the connection and all that it lists, everything for proxies, and every
    field that a server could take for one that is injected: the same name in any case, or with
    underscores, which CGI and its descendants do not tell from hyphens.
    """
    ours = {_folded(name.encode("ascii")) for name in injected}
    listed = _connection_tokens(fields) - _ESSENTIAL
    kept = [
        (name, value)
        for name, value in fields
        if _folded(name) not in ours
        and name.lower() not in _CONNECTION
        and name.lower() not in listed
        and not name.lower().startswith(b"proxy-")
        and (name.lower() != b"expect" or value.lower() == b"100-continue")
    ]
    if websocket:
        kept += [(b"Connection", b"Upgrade"), (b"Upgrade", b"websocket")]
    return kept


def with_host(fields: Iterable[Field], host: str) -> list[Field]:
    """The fields with exactly one Host header, the first of all (RFC 9110 section 7.2)."""
    return [(b"Host", host.encode("ascii")), *(field for field in fields if field[0].lower() != b"host")]


def _connection_tokens(fields: Iterable[Field]) -> set[bytes]:
    return {
        token.strip().lower()
        for name, value in fields
        if name.lower() == b"connection"
        for token in value.split(b",")
    }


def _folded(name: bytes) -> bytes:
    return name.lower().replace(b"_", b"-")
