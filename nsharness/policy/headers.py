"""The header fields of a request between client and host: pure functions on lists of pairs.

Fields are pairs of bytes as they came, in their order, names in the client's spelling. What goes on to
the host is a new list: nothing of the connection, nothing that a server could take for what we inject, and
to hosts with a credential of ours nothing by which the client could be somebody else there, could get an
answer in pieces or in an encoding that nobody can look into.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Collection, Iterable, Sequence

from nsharness.policy.decide import Allow
from nsharness.policy.remembering import remembered
from nsharness.policy.request import CREDENTIAL_HEADERS, TOKEN

Field = tuple[bytes, bytes]

# RFC 9110 section 7.6.1; HTTP2-Settings belongs to an upgrade that is never made (RFC 7540 section 3.2.1).
_CONNECTION = frozenset({b"connection", b"keep-alive", b"te", b"trailer", b"upgrade", b"http2-settings"})
# What a Connection header may not take away: without these the request would be another one.
_ESSENTIAL = frozenset({b"host", b"content-length", b"transfer-encoding", b"expect"})

_CREDENTIALS = frozenset(name.encode("ascii") for name in CREDENTIAL_HEADERS)
# Pieces of an answer would be scrubbed as if each were all of it; compressed frames and encodings that we
# would have to undo are not asked for in the first place.
_UNREADABLE = frozenset({b"range", b"if-range", b"accept-encoding", b"sec-websocket-extensions"})

# RFC 9110 section 5.5: no control characters but the tab, and no line break, which was obs-fold (RFC 9112
# section 5.2) or is the end of one header and the beginning of another.
_VALUE = re.compile(rb"[\t -~\x80-\xff]*")
_LENGTH = re.compile(rb"[0-9]{1,18}")
_SCHEME = re.compile(rb"(?:[A-Za-z][A-Za-z0-9-]* +)?(?P<rest>[^ ]+)")
_BASIC = re.compile(rb"basic +(?P<pair>[A-Za-z0-9+/]+={0,2})", re.IGNORECASE)


class HeaderError(ValueError):
    """A list of fields that two servers could read differently: answered with 400, never forwarded. The
    text is for the client, and quotes no value."""


def values(fields: Iterable[Field], name: bytes) -> tuple[str, ...]:
    """All values of a header, unjoined; bytes that are no UTF-8 become surrogates, which no host has."""
    return tuple(value.decode("utf-8", "surrogateescape") for key, value in fields if key.lower() == name)


def check(fields: Iterable[Field]) -> None:
    """``HeaderError`` unless every field is one line with a proper name, and the body has one length.

    RFC 9112 section 6.3: both Content-Length and Transfer-Encoding, several of either, another encoding than
    ``chunked`` are how a request is hidden behind another.
    """
    lengths: list[bytes] = []
    encodings: list[bytes] = []
    for name, value in fields:
        if not _is_token(name):
            raise HeaderError("a header name is no token, or the line continues another one")
        if not _VALUE.fullmatch(value):
            raise HeaderError("a header value has a line break or a control character")
        # Servers that take an underscore for a hyphen must not see a length that we do not see.
        folded = _folded(name)
        if folded == b"content-length":
            lengths.append(value)
        elif folded == b"transfer-encoding":
            encodings.append(value.strip(b" \t").lower())
        if folded in (b"content-length", b"transfer-encoding") and b"_" in name:
            raise HeaderError("a header about the length of the body is misspelled")
    if len(lengths) + len(encodings) > 1:
        raise HeaderError("the length of the body is given several times")
    if lengths and not _LENGTH.fullmatch(lengths[0]):
        raise HeaderError("Content-Length is not a number")
    if encodings and encodings != [b"chunked"]:
        raise HeaderError("Transfer-Encoding is not chunked")


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


def outgoing(
    fields: Sequence[Field], allow: Allow, *, websocket: bool = False, placeholders: Collection[str] = ()
) -> list[Field]:
    """What of a client's header fields goes on to the host, for a request that was allowed.

    Left out are those of the connection and all that it lists, everything for proxies, and every field
    that a server could take for one that is injected: the same name in any case, or with underscores,
    which CGI and its descendants do not tell from hyphens. On a host with a credential of ours also the
    client's own credentials, unless the rule is not ``exclusive`` (``cookies`` lets those through), and
    what would make the answer unreadable. ``placeholders`` are those that the rule turns into secrets: a
    credential that is one of them and nothing else stays, to be turned.

    ``HeaderError`` for what ``check`` refuses. What is injected is for the caller to add, with a proof.
    """
    check(fields)
    texts = frozenset(text.encode("ascii") for text in placeholders)
    ours = {_folded(name.encode("ascii")) for name in allow.inject}
    listed = {_folded(token) for token in _connection_tokens(fields)} - _ESSENTIAL
    dropped = ours | _CONNECTION | listed
    kept = [
        (name, value)
        for name, value in fields
        if (folded := _folded(name)) not in dropped
        and not folded.startswith(b"proxy-")
        and (folded != b"expect" or value.lower() == b"100-continue")
        and (not allow.credentialed or _passes(folded, value, allow, texts))
    ]
    if allow.credentialed:
        kept.append((b"Accept-Encoding", b"identity"))
    if websocket:
        kept += [(b"Connection", b"Upgrade"), (b"Upgrade", b"websocket")]
    return kept


def removed(fields: Iterable[Field], kept: Iterable[Field]) -> tuple[str, ...]:
    """The names, each once and in lower case, of what ``outgoing`` left out: for whoever explains it."""
    left = {name.lower() for name, _ in kept}
    names = dict.fromkeys(name.lower() for name, _ in fields if name.lower() not in left)
    return tuple(name.decode("ascii", "replace") for name in names)


def with_host(fields: Iterable[Field], host: str) -> list[Field]:
    """The fields with exactly one Host header, the first of all (RFC 9110 section 7.2)."""
    return [(b"Host", host.encode("ascii")), *(field for field in fields if _folded(field[0]) != b"host")]


def is_placeholder(value: bytes, placeholders: Collection[bytes]) -> bool:
    """Whether a credential is a placeholder, alone, behind a scheme, or in a ``Basic`` pair (RFC 7617): one
    with something beside it could be the client's own."""
    basic = _BASIC.fullmatch(value)
    if basic is not None:
        try:
            pair = base64.b64decode(basic["pair"] + b"=" * (-len(basic["pair"]) % 4), validate=True)
        except binascii.Error:
            return False
        user, _, password = pair.partition(b":")
        return password in placeholders or (user in placeholders and not password)
    match = _SCHEME.fullmatch(value)
    return match is not None and match["rest"] in placeholders


def _passes(folded: bytes, value: bytes, allow: Allow, placeholders: Collection[bytes]) -> bool:
    """Whether a field may go to a host with a credential of ours."""
    if folded in _UNREADABLE:
        return False
    if folded not in _CREDENTIALS or not allow.rule.exclusive:
        return True
    if folded == b"cookie":
        return allow.rule.cookies
    return is_placeholder(value, placeholders)


def _connection_tokens(fields: Iterable[Field]) -> set[bytes]:
    return {
        token.strip(b" \t").lower()
        for name, value in fields
        if name.lower() == b"connection"
        for token in value.split(b",")
    }


# The same names come with every request.
@remembered
def _is_token(name: bytes) -> bool:
    return TOKEN.fullmatch(name.decode("latin-1")) is not None


@remembered
def _folded(name: bytes) -> bytes:
    return name.lower().replace(b"_", b"-")
