"""The proof that a secret may be sent: without one, no code can get at a secret's value to send it.

Credentials have been stolen through proxies because one name of a request was believed where another was
connected to. So the value of a secret is behind a type. ``CredentialMap.reveal`` takes a ``Proof``, and
there is one way to get one: ``prove``, which goes through everything again that is known about one
request on one upstream connection, the decision included, and fails if any of it disagrees. Then the
proof's own fields are compared with each other once more, by rules of their own, so that one mistake in
``authority`` or ``decide`` alone is not enough.

What the type guarantees, in Python: ``Proof(…)`` needs a token that this module keeps, also through
``dataclasses.replace``; a proof does not change, is not pickled and has no subclasses; type checkers and
the test that looks for uses of the token see every way round this that is written down in our own code.
What it cannot: code in the same process that means to forge one can (``object.__new__``, or reading the
token, or the memory). It is a guard against mistakes, of ours and of the engine; the guard against code
of others is that none of it runs in that process.
"""

from __future__ import annotations

import ipaddress
from dataclasses import InitVar, asdict, dataclass
from functools import lru_cache
from typing import Any, Final, NamedTuple, NoReturn, final

from nsharness.policy.addresses import connectable
from nsharness.policy.authority import SYNTHETIC, Authority, Claims, Refusal, authority
from nsharness.policy.decide import Deny, decide
from nsharness.policy.hosts import (
    HostError,
    HostPattern,
    canonical_host,
    is_ip,
    join_authority,
    split_authority,
)
from nsharness.policy.model import Policy, is_local
from nsharness.policy.names import NameTable
from nsharness.policy.request import DEFAULT_PORTS, RequestView


class ProofError(ValueError):
    """There is no proof; ``field`` names the field that disagrees. No value of anything is in the text."""

    def __init__(self, field: str, why: str) -> None:
        super().__init__(f"{field}: {why}")
        self.field = field
        self.why = why


@dataclass(frozen=True, slots=True)
class Transparent:
    """The client dialled an address and a port of its gateway. ``name`` is the one that the address was
    issued for; None for an address that stands for itself because a rule lists it."""

    issued_address: str
    port: int
    name: str | None


@dataclass(frozen=True, slots=True)
class Connect:
    """The client asked for a tunnel to ``target``, host and port."""

    target: str


@dataclass(frozen=True, slots=True)
class Forward:
    """The client sent its request in absolute form. Of the URI scheme and authority: the rest is no claim."""

    absolute_uri: str


Road = Transparent | Connect | Forward


@dataclass(frozen=True, slots=True)
class VerifiedCertificate:
    """TLS with the upstream: its certificate was verified for ``name`` on the connection to ``address``."""

    name: str
    address: str


@dataclass(frozen=True, slots=True)
class MappedAddress:
    """No TLS with the upstream: the connection goes to the local address and port that the profile maps."""

    address: str
    port: int


Upstream = VerifiedCertificate | MappedAddress

_TOKEN: Final = object()


@final
@dataclass(frozen=True, slots=True)
class Proof:
    """That one request of ``sandbox`` may carry the secrets of ``rule``: see the module. ``prove`` makes it.

    ``pattern`` is the host pattern of the rule under which the credential map has the values, ``headers``
    and ``secrets`` are the names of those that the rule entitles to, ``certificate`` says whether the host
    may be shown the rule's client certificate, ``secret_version`` is that of the map.
    """

    sandbox: str
    road: Road
    tls: bool
    sni: str | None
    authority: Authority
    upstream: Upstream
    rule: str
    pattern: str
    headers: tuple[str, ...]
    secrets: tuple[str, ...]
    certificate: bool
    secret_version: str
    token: InitVar[object]

    def __post_init__(self, token: object) -> None:
        if token is not _TOKEN:
            raise ProofError("token", "a proof is made by prove(), and by nothing else")
        for name in ("sandbox", "rule", "secret_version"):
            if not getattr(self, name):
                raise ProofError(name, "it is empty")
        _check_road(self)
        _check_sni(self)
        _check_upstream(self)
        if not _pattern(self.pattern).matches(self.authority.host):
            raise ProofError("pattern", "it does not match the host")
        if not self.headers and not self.secrets and not self.certificate:
            raise ProofError("rule", "it entitles to no secret")
        if self.certificate and not self.tls:
            raise ProofError("certificate", "there is no TLS to show it in")

    def to_audit(self) -> dict[str, Any]:
        """The proof as an audit line carries it: all of its fields, none of which is a secret's value."""
        road, upstream = asdict(self.road), asdict(self.upstream)
        return {
            "sandbox": self.sandbox,
            "road": {"kind": type(self.road).__name__.lower(), **road},
            "tls": self.tls,
            "sni": self.sni,
            "authority": join_authority(self.authority.host, self.authority.port),
            "upstream": {"kind": _UPSTREAM_KINDS[type(self.upstream)], **upstream},
            "rule": self.rule,
            "pattern": self.pattern,
            "headers": list(self.headers),
            "secrets": list(self.secrets),
            "certificate": self.certificate,
            "secret_version": self.secret_version,
        }

    def __copy__(self) -> Proof:
        return self

    def __deepcopy__(self, memo: object) -> Proof:
        return self

    def __init_subclass__(cls) -> NoReturn:
        raise TypeError("a proof has no subclasses")

    def __getstate__(self) -> NoReturn:
        raise TypeError("a proof holds for one request in one process")

    def __setstate__(self, state: object) -> NoReturn:
        raise TypeError("a proof holds for one request in one process")


_UPSTREAM_KINDS = {VerifiedCertificate: "verified-certificate", MappedAddress: "mapped-address"}


def prove(
    *,
    sandbox: str,
    claims: Claims,
    names: NameTable,
    policy: Policy,
    request: RequestView,
    upstream: Upstream,
    secret_version: str,
) -> Proof:
    """The proof for ``request``, which came with ``claims`` and is about to be sent over a connection that
    stands: to ``upstream``, as it was measured on that very connection.

    ``names``, ``policy`` and ``sandbox`` are those of the listener that the request arrived on;
    ``secret_version`` is that of the credential map that will be asked. ``ProofError`` if there is none.
    """
    agreed = authority(claims)
    if isinstance(agreed, Refusal):
        raise ProofError("authority", agreed.reason)
    if (request.host, request.port) != (agreed.host, agreed.port):
        raise ProofError("authority", "the request that was decided on is for another host or port")
    if (request.scheme == "https") != claims.tls:
        raise ProofError("authority", "the request that was decided on has another scheme")
    decision = decide(policy, request)
    if isinstance(decision, Deny):
        raise ProofError("rule", f"the request is not allowed ({decision.reason})")
    # The table is asked again: what the claims say about the name is a claim.
    name = None if claims.dialled is None else names.name_of(claims.dialled[0])
    rule, mapped = decision.rule, policy.upstream(agreed.host, agreed.port)
    entitled = Entitlement(
        rule.name, str(decision.pattern), decision.inject, rule.secrets, rule.client_certificate
    )
    return _proof(sandbox, claims, agreed, name, mapped, upstream, entitled, secret_version)


class Entitlement(NamedTuple):
    """What a rule lets a request carry."""

    rule: str
    pattern: str
    headers: tuple[str, ...]
    secrets: tuple[str, ...]
    certificate: bool


@lru_cache(maxsize=256)
def _proof(
    sandbox: str,
    claims: Claims,
    agreed: Authority,
    name: str | None,
    mapped: tuple[str, int] | None,
    upstream: Upstream,
    entitled: Entitlement,
    secret_version: str,
) -> Proof:
    """All of it that does not depend on the method and path of one request. Whatever differs in any of these
    is looked at anew; what has once held for exactly the same, holds."""
    _check_mapping(mapped, agreed, upstream)
    return Proof(
        sandbox=sandbox,
        road=_road(claims, name),
        tls=claims.tls,
        sni=None if claims.sni is None else _canonical("sni", claims.sni),
        authority=agreed,
        upstream=upstream,
        secret_version=secret_version,
        token=_TOKEN,
        **entitled._asdict(),
    )


def _road(claims: Claims, name: str | None) -> Road:
    if claims.path == "transparent":
        assert claims.dialled is not None
        address, port = claims.dialled
        return Transparent(address, port, name)
    if claims.path == "connect":
        assert claims.connect_target is not None
        return Connect(claims.connect_target)
    assert claims.absolute_uri_authority is not None
    return Forward(f"{claims.absolute_uri_scheme or 'http'}://{claims.absolute_uri_authority}")


def _check_mapping(mapped: tuple[str, int] | None, agreed: Authority, upstream: Upstream) -> None:
    """Whether the connection leads where the profile maps the host to, or to an address of its own."""
    if isinstance(upstream, MappedAddress):
        if mapped != (upstream.address, upstream.port):
            raise ProofError("upstream", "the profile does not map the host to this address")
    elif mapped is not None:
        if upstream.address != mapped[0]:
            raise ProofError("upstream", "the profile maps the host to another address")
    elif connectable(upstream.address) is not None:
        raise ProofError("upstream", "the address is none of the public internet")
    elif is_ip(agreed.host) and upstream.address != agreed.host:
        raise ProofError("upstream", "the host is an address, and this is another one")


def _check_road(proof: Proof) -> None:
    """Whether the way that the request took leads to the authority."""
    road, agreed = proof.road, proof.authority
    if isinstance(road, Transparent):
        address = _canonical("road", road.issued_address)
        synthetic = is_ip(address) and ":" not in address and ipaddress.IPv4Address(address) in SYNTHETIC
        named = road.name if synthetic else address
        if named != agreed.host or (road.name is not None) != synthetic or road.port != agreed.port:
            raise ProofError("road", "the address that was dialled is not the host's")
    elif isinstance(road, Connect):
        if _split("road", road.target, None) != (agreed.host, agreed.port):
            raise ProofError("road", "the CONNECT target is not the host")
    else:
        scheme, _, rest = road.absolute_uri.partition("://")
        # No request in absolute form comes inside TLS with the destination.
        if scheme.lower() != "http" or proof.tls:
            raise ProofError("road", "a request in absolute form is for plain http")
        if _split("road", rest, DEFAULT_PORTS["http"]) != (agreed.host, agreed.port):
            raise ProofError("road", "the absolute URI is not for the host")


def _check_sni(proof: Proof) -> None:
    """There is an SNI exactly when there is TLS; for an IP address none need be (RFC 6066 section 3)."""
    if proof.sni is None:
        if proof.tls and not is_ip(proof.authority.host):
            raise ProofError("sni", "the TLS handshake named no host")
    elif not proof.tls:
        raise ProofError("sni", "there is a name from a TLS handshake, and no TLS")
    elif proof.sni != proof.authority.host:
        raise ProofError("sni", "the TLS handshake named another host")


def _check_upstream(proof: Proof) -> None:
    """A certificate for the host where there is TLS, and a local address where there is not."""
    upstream = proof.upstream
    if isinstance(upstream, VerifiedCertificate):
        if not proof.tls:
            raise ProofError("upstream", "the request came without TLS and would go on with it")
        if _canonical("upstream", upstream.name) != proof.authority.host:
            raise ProofError("upstream", "the certificate was verified for another name")
    elif proof.tls:
        raise ProofError("upstream", "the request came inside TLS and would go on without it")
    elif connectable(upstream.address) == "no address" or not is_local(upstream.address):
        raise ProofError("upstream", "without TLS, and not to a local address")


def _canonical(field: str, text: str) -> str:
    try:
        return canonical_host(text)
    except HostError:
        raise ProofError(field, "it is no host") from None


def _split(field: str, text: str, default: int | None) -> tuple[str, int | None]:
    try:
        host, port = split_authority(text)
    except HostError:
        raise ProofError(field, "it is no host and port") from None
    return host, port or default


@lru_cache(maxsize=256)
def _pattern(text: str) -> HostPattern:
    try:
        return HostPattern.parse(text)
    except HostError:
        raise ProofError("pattern", "it is none") from None
