"""One authority per request: the host that is connected to, or a refusal.

A request can name its destination in many places: the address that was dialled, the CONNECT target,
the absolute URI, the SNI, ``:authority``, the Host header. A proxy that decides by one of them and
connects by another gives its credentials away. Here all that are present must agree, those that a
path requires must be present, and the port is one of the things that agree.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from nsharness.policy.hosts import HostError, canonical_host, is_ip, split_authority
from nsharness.policy.request import DEFAULT_PORTS, Scheme

Path = Literal["transparent", "connect", "forward"]

# RFC 2544 reserves it for benchmarks; here each name of a sandbox has an address of its own in it.
_REMEMBERED = 1024
SYNTHETIC = ipaddress.IPv4Network("198.18.0.0/15")


@dataclass(frozen=True, slots=True)
class Claims:
    """Everything that names the destination of a request, as it came; None or empty where absent.

    ``path`` is the way the request took. transparent: ``dialled`` is the address and port that the
    client connected to and ``issued_name`` the name which that address was issued for. connect: a
    request inside a CONNECT tunnel to ``connect_target`` (``host:port``). forward: a request in
    absolute form at the proxy, with ``absolute_uri_authority``. ``tls`` says whether the request came
    inside TLS with the destination; ``sni`` is what that handshake named. ``authority_header`` is
    HTTP/2's ``:authority``; ``host_headers`` are all Host headers, unjoined. ``absolute_uri_scheme``,
    where the caller has it, must fit ``tls``.
    """

    path: Path
    issued_name: str | None = None
    dialled: tuple[str, int] | None = None
    connect_target: str | None = None
    absolute_uri_authority: str | None = None
    sni: str | None = None
    authority_header: str | None = None
    host_headers: tuple[str, ...] = ()
    tls: bool = False
    absolute_uri_scheme: str | None = None


@dataclass(frozen=True, slots=True)
class Authority:
    """The agreed destination: canonical host and port."""

    host: str
    port: int


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why there is no authority, in words for the client, and the HTTP status to answer with:
    400 for what is malformed, 421 (RFC 9110 section 15.5.20) for names that disagree."""

    reason: str
    status: int


class _RefusedError(Exception):
    def __init__(self, reason: str, status: int) -> None:
        self.refusal = Refusal(reason, status)


def authority(claims: Claims) -> Authority | Refusal:
    """The one host and port that all names of a request agree on, after canonicalisation."""
    try:
        return _agree(claims)
    except _RefusedError as refused:
        return refused.refusal


# What raises is not remembered. So names that are no hosts, however long and however many, are not kept.
@lru_cache(maxsize=_REMEMBERED)
def _agree(claims: Claims) -> Authority:
    agreed = _anchor(claims)
    default = DEFAULT_PORTS[_scheme(claims)]
    for what, text in (
        ("the CONNECT target", claims.connect_target),
        ("the absolute URI", claims.absolute_uri_authority),
        (":authority", claims.authority_header),
        ("the Host header", _single_host(claims)),
    ):
        if text is not None:
            _compare(what, _split(what, text, default), agreed)
    for what, name in (("the address that was dialled", claims.issued_name), ("the SNI", claims.sni)):
        if name is not None:
            _compare(what, Authority(_canonical(what, name), agreed.port), agreed)
    if claims.tls and claims.sni is None and not is_ip(agreed.host):
        raise _RefusedError("the TLS handshake names no host (SNI)", 421)
    if claims.sni is not None and not claims.tls:
        raise _RefusedError("there is an SNI but no TLS", 400)
    return agreed


def _anchor(claims: Claims) -> Authority:
    """Where the connection really leads by the way it took; everything else must agree with this."""
    if claims.path == "transparent":
        if claims.dialled is None or claims.connect_target is not None:
            raise _RefusedError("a transparent connection has an address and no CONNECT target", 400)
        address, port = claims.dialled
        address = _canonical("the address that was dialled", address)
        if not is_ip(address):
            raise _RefusedError("the address that was dialled is no IP address", 400)
        if not 0 < port < 65536:
            raise _RefusedError("the port that was dialled is out of range", 400)
        if claims.issued_name is not None:
            return Authority(_canonical("the address that was dialled", claims.issued_name), port)
        if ":" not in address and ipaddress.IPv4Address(address) in SYNTHETIC:
            raise _RefusedError("the address that was dialled was issued for no name", 421)
        return Authority(address, port)
    if claims.path == "connect":
        if claims.connect_target is None:
            raise _RefusedError("there is no CONNECT target", 400)
        return _split("the CONNECT target", claims.connect_target, None)
    if claims.path == "forward":
        if claims.absolute_uri_authority is None or claims.connect_target is not None:
            raise _RefusedError("a forwarded request has an absolute URI and no CONNECT target", 400)
        return _split("the absolute URI", claims.absolute_uri_authority, DEFAULT_PORTS[_scheme(claims)])
    raise _RefusedError("the request came by no known path", 400)


def _scheme(claims: Claims) -> Scheme:
    scheme: Scheme = "https" if claims.tls else "http"
    if claims.absolute_uri_scheme is not None and claims.absolute_uri_scheme.lower() != scheme:
        raise _RefusedError("the scheme of the absolute URI is not that of the connection", 421)
    return scheme


def _single_host(claims: Claims) -> str | None:
    """The Host header: exactly one in HTTP/1 (RFC 9112 section 3.2), at most one beside ``:authority``."""
    if len(claims.host_headers) > 1:
        raise _RefusedError("there are several Host headers", 400)
    if claims.host_headers:
        return claims.host_headers[0]
    if claims.authority_header is None:
        raise _RefusedError("there is no Host header", 400)
    return None


def _split(what: str, text: str, default: int | None) -> Authority:
    try:
        host, port = split_authority(text)
    except HostError as error:
        raise _RefusedError(f"{what} is malformed: {error}", 400) from None
    port = port or default
    if port is None:
        raise _RefusedError(f"{what} has no port", 400)
    return Authority(host, port)


def _canonical(what: str, name: str) -> str:
    try:
        return canonical_host(name)
    except HostError as error:
        raise _RefusedError(f"{what} is malformed: {error}", 400) from None


def _compare(what: str, named: Authority, agreed: Authority) -> None:
    if named.host != agreed.host:
        raise _RefusedError(f"{what} names another host than the connection leads to", 421)
    if named.port != agreed.port:
        raise _RefusedError(f"{what} names another port than the connection leads to", 421)
