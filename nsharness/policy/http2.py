"""The head of an HTTP/2 request as the HTTP/1.1 request that it becomes: a pure function on lists of pairs.

HTTP/2 can carry what HTTP/1.1 cannot say: a space in the path, a line break in a value, fields about a
connection that there is none of. Sent on, any of it would be another request than the one that was
checked. So whatever is not plain in both is refused here, before anybody decides on it (RFC 9113
sections 8.2 and 8.3).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from nsharness.policy.headers import Field, HeaderError

_PSEUDO: Final = frozenset({b":method", b":scheme", b":authority", b":path"})
_METHOD: Final = re.compile(rb"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_SCHEME: Final = re.compile(rb"[a-z]+")
# RFC 9112 section 3.2.1, without what a server could take for the end of it.
_PATH: Final = re.compile(rb"/[!-~]*")
_AUTHORITY: Final = re.compile(rb"[!-~]+")
_NAME: Final = re.compile(rb"[a-z0-9!#$%&'*+.^_`|~-]+")
_VALUE: Final = re.compile(rb"|[!-~\x80-\xff](?:[\t -~\x80-\xff]*[!-~\x80-\xff])?")
# RFC 9113 section 8.2.2: they are about a connection, and this is none.
_OF_CONNECTION: Final = frozenset(
    {b"connection", b"proxy-connection", b"keep-alive", b"transfer-encoding", b"upgrade", b"http2-settings"}
)


@dataclass(frozen=True, slots=True)
class Head:
    """A request's head. ``authority`` is empty where there was none; ``fields`` say how long the body is in
    the words of HTTP/1.1."""

    method: bytes
    scheme: bytes
    authority: bytes
    path: bytes
    fields: tuple[Field, ...]


def request_head(received: Iterable[Field], *, ended: bool) -> Head:
    """The head of a request from the fields of its first frames; ``ended`` says that no body follows.

    ``HeaderError`` for what is malformed, for ``CONNECT`` and for every other use of a pseudo-header
    (RFC 8441). A body of unknown length becomes a chunked one, several cookie fields become one
    (RFC 9113 section 8.2.3).
    """
    pseudo: dict[bytes, bytes] = {}
    fields: list[Field] = []
    cookies: list[bytes] = []
    for name, value in received:
        if name.startswith(b":"):
            if fields or cookies or name in pseudo or name not in _PSEUDO:
                raise HeaderError("a pseudo-header is unknown, repeated, or not among the first fields")
            pseudo[name] = value
            continue
        _check(name, value)
        if name == b"cookie":
            cookies.append(value)
        else:
            fields.append((name, value))
    if cookies:
        fields.append((b"cookie", b"; ".join(cookies)))
    _check_pseudo(pseudo)
    return Head(
        pseudo[b":method"],
        pseudo[b":scheme"],
        pseudo.get(b":authority", b""),
        pseudo[b":path"],
        (*fields, *_framing(fields, ended)),
    )


def _check(name: bytes, value: bytes) -> None:
    if not _NAME.fullmatch(name):
        raise HeaderError("a header name is no token in lower case")
    if not _VALUE.fullmatch(value):
        raise HeaderError("a header value has a control character, or white space around it")
    if name in _OF_CONNECTION or (name == b"te" and value.lower() != b"trailers"):
        raise HeaderError("a header is about a connection, which HTTP/2 has none of")


def _check_pseudo(pseudo: dict[bytes, bytes]) -> None:
    for name, form in ((b":method", _METHOD), (b":scheme", _SCHEME), (b":path", _PATH)):
        if not form.fullmatch(pseudo.get(name, b"")):
            raise HeaderError(f"{name.decode()} is missing or malformed")
    if b":authority" in pseudo and not _AUTHORITY.fullmatch(pseudo[b":authority"]):
        raise HeaderError(":authority is malformed")
    if pseudo[b":method"].upper() == b"CONNECT":
        raise HeaderError("there are no tunnels in HTTP/2")


def _framing(fields: list[Field], ended: bool) -> list[Field]:
    """What has to be added about the length of the body (RFC 9112 section 6)."""
    # Some hosts read an underscore as a hyphen: such a name would be a length for them and none for us.
    if any(name != b"content-length" and name.replace(b"_", b"-") == b"content-length" for name, _ in fields):
        raise HeaderError("a field's name is only almost Content-Length")
    lengths = [value for name, value in fields if name == b"content-length"]
    if len(lengths) > 1 or (ended and lengths not in ([], [b"0"])):
        raise HeaderError("the length of the body is not what Content-Length says")
    return [] if ended or lengths else [(b"transfer-encoding", b"chunked")]
