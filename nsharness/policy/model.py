"""The policy of one sandbox as plain values, and its JSON form for the proxy process.

A profile (``profile.py``) is what people write; this is what is left of it for deciding: no
template, no secret, nothing but the standard library. Reading it back is strict, because the proxy
must rather serve nothing than serve something that was meant otherwise.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Literal, cast, get_args

from nsharness.credentials.secret import SecretRef
from nsharness.policy.addresses import METADATA
from nsharness.policy.hosts import HostPattern, canonical_host, is_ip, join_authority, split_authority
from nsharness.policy.paths import PathGlob
from nsharness.policy.request import TOKEN
from nsharness.policy.units import Rate

ProxyAuth = Literal["listener", "bearer", "mtls"]
Place = Literal["header", "basic"]
"""Where a placeholder becomes the secret: in a header's value, or inside a Basic pair (RFC 7617)."""
StrayPlaceholders = Literal["block", "leave"]
Engine = Literal["fast", "mitmproxy"]
"""What moves the bytes of HTTP/1.1; HTTP/2 is always mitmproxy's."""
Unknown = Literal["deny", "ask"]
"""What becomes of a request to a host that no rule names: it is denied, or waits for a person's answer."""
ASK_SECONDS = 60
Upstream = tuple[str, int]


class PolicyError(ValueError):
    """A policy, or its JSON form, that is not exactly what this module writes."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One thing that is allowed or, with ``deny``, forbidden. None means any; a condition that is present
    is never empty.

    ``header_names`` are the headers that the proxy injects for it, in the profile's spelling;
    ``secrets`` are those (``name.key``) whose placeholders it turns into the value in the places named by
    ``placeholders``; ``client_certificate`` says that the host is shown one in TLS. ``rate``,
    ``max_requests`` and ``max_body`` (bytes) bound what is allowed.
    """

    name: str
    hosts: tuple[HostPattern, ...]
    header_names: tuple[str, ...] = ()
    methods: frozenset[str] | None = None
    paths: tuple[PathGlob, ...] | None = None
    ports: frozenset[int] | None = None
    allow_any: bool = False
    deny: bool = False
    rate: Rate | None = None
    max_requests: int | None = None
    max_body: int | None = None
    exclusive: bool = True
    cookies: bool = False
    inspect: bool = False
    secrets: tuple[str, ...] = ()
    placeholders: frozenset[Place] = frozenset()
    client_certificate: bool = False

    def __post_init__(self) -> None:
        # Empty conditions read as "none" by one reader and as "any" by the next, so there are none.
        for what in ("hosts", "methods", "paths", "ports"):
            value = getattr(self, what)
            if value is not None and not value:
                raise PolicyError(f"rule {self.name!r} has empty {what}")
        if self.hosts is None:
            raise PolicyError(f"rule {self.name!r} has no hosts")
        if any(not 0 < port < 65536 for port in self.ports or ()):
            raise PolicyError(f"rule {self.name!r} has a port out of range")
        if not all(TOKEN.fullmatch(text) for text in (*(self.methods or ()), *self.header_names)):
            raise PolicyError(f"rule {self.name!r} has a method or a header name that is no token")
        if any(
            limit is not None and limit < least
            for limit, least in ((self.max_requests, 1), (self.max_body, 0))
        ):
            raise PolicyError(f"rule {self.name!r} has a limit out of range")
        if bool(self.placeholders) != bool(self.secrets) or not self.placeholders <= {"header", "basic"}:
            raise PolicyError(f"rule {self.name!r} has no such places for placeholders of secrets")
        for text in self.secrets:
            if str(SecretRef.parse(text)) != text:
                raise PolicyError(f"rule {self.name!r} has a secret that is none")
        self._check_kind()

    def _check_kind(self) -> None:
        if self.allow_any and self.credentialed:
            raise PolicyError(f"rule {self.name!r} has credentials, for named hosts only, and allow_any")
        limits = (self.rate, self.max_requests, self.max_body)
        if self.deny and (self.credentialed or self.cookies or self.inspect or limits != (None,) * 3):
            raise PolicyError(f"rule {self.name!r} denies, and says how to allow")

    @property
    def credentialed(self) -> bool:
        """Whether the host gets a credential of ours: a header, a secret for a placeholder, a certificate."""
        return bool(self.header_names) or bool(self.secrets) or self.client_certificate

    @property
    def limited(self) -> bool:
        """Whether its requests must be counted or measured."""
        return self.rate is not None or self.max_requests is not None or self.max_body is not None

    @property
    def conditional(self) -> bool:
        """Whether the rule depends on more than host and port, so that its requests must be inspected."""
        return self.credentialed or self.methods is not None or self.paths is not None

    def pattern_for(self, host: str) -> HostPattern | None:
        """The first pattern that matches a canonical host."""
        for pattern in self.hosts:
            if pattern.matches(host):
                return pattern
        return None

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "hosts": [str(pattern) for pattern in self.hosts],
            "header_names": list(self.header_names),
            "methods": None if self.methods is None else sorted(self.methods),
            "paths": None if self.paths is None else [str(glob) for glob in self.paths],
            "ports": None if self.ports is None else sorted(self.ports),
            "allow_any": self.allow_any,
            "deny": self.deny,
            "rate": None if self.rate is None else str(self.rate),
            "max_requests": self.max_requests,
            "max_body": self.max_body,
            "exclusive": self.exclusive,
            "cookies": self.cookies,
            "inspect": self.inspect,
            "secrets": list(self.secrets),
            "placeholders": sorted(self.placeholders),
            "client_certificate": self.client_certificate,
        }

    @classmethod
    def from_json(cls, data: object) -> Rule:
        values = _object(data, _RULE_KEYS, "rule")
        broad = _typed(values["allow_any"], bool, "allow_any") or _typed(values["deny"], bool, "deny")
        lists = {key: _list(values[key], str, key) for key in _RULE_LISTS}
        methods, paths, ports = (
            None if values[key] is None else _list(values[key], kind, key)
            for key, kind in (("methods", str), ("paths", str), ("ports", int))
        )
        rate, max_requests, max_body = (
            None if values[key] is None else _typed(values[key], kind, key)
            for key, kind in (("rate", str), ("max_requests", int), ("max_body", int))
        )
        flags = {key: _typed(values[key], bool, key) for key in _RULE_FLAGS}
        return cls(
            name=_typed(values["name"], str, "name"),
            hosts=tuple(HostPattern.parse(text, allow_any=broad) for text in lists["hosts"]),
            header_names=tuple(lists["header_names"]),
            methods=None if methods is None else frozenset(methods),
            paths=None if paths is None else tuple(PathGlob.parse(text) for text in paths),
            ports=None if ports is None else frozenset(ports),
            rate=None if rate is None else Rate.parse(rate),
            max_requests=max_requests,
            max_body=max_body,
            secrets=tuple(lists["secrets"]),
            placeholders=frozenset(lists["placeholders"]),
            **flags,
        )


_RULE_KEYS = tuple(entry.name for entry in fields(Rule))
_RULE_LISTS = ("hosts", "header_names", "secrets", "placeholders")
_RULE_FLAGS = ("allow_any", "deny", "exclusive", "cookies", "inspect", "client_certificate")


@dataclass(frozen=True, slots=True)
class Policy:
    """Everything the proxy decides by for one sandbox. No rules: everything is denied.

    ``upstreams`` maps ``host:port`` (canonical, IPv6 in brackets) to the address and port that the
    proxy connects to instead of resolving the name. ``stray_placeholders`` says what happens to a request
    that has a placeholder where it does not become the secret, ``engine`` what moves the bytes. ``unknown``
    says what happens to a request to a host that no rule names, and ``ask_seconds`` how long a person has to
    answer.
    """

    profile: str
    rules: tuple[Rule, ...] = ()
    upstreams: Mapping[str, Upstream] = field(default_factory=dict)
    proxy_auth: ProxyAuth = "listener"
    stray_placeholders: StrayPlaceholders = "block"
    engine: Engine = "fast"
    unknown: Unknown = "deny"
    ask_seconds: int = ASK_SECONDS
    only: tuple[Rule, ...] | None = None
    """What a request has to match besides: one of these, where there are any. They have conditions alone, and
    as in a rule that denies, absent ports mean all."""

    def __post_init__(self) -> None:
        if self.unknown not in get_args(Unknown):
            raise PolicyError("unknown is neither deny nor ask")
        if any(rule.credentialed or rule.limited or not rule.deny for rule in self.only or ()):
            raise PolicyError("only has a rule with more than conditions")
        if not 0 < self.ask_seconds <= 3600:
            raise PolicyError("ask_seconds is out of range")
        if self.proxy_auth not in get_args(ProxyAuth):
            raise PolicyError("proxy_auth is neither listener nor bearer nor mtls")
        if self.stray_placeholders not in get_args(StrayPlaceholders):
            raise PolicyError("stray_placeholders is neither block nor leave")
        if self.engine not in get_args(Engine):
            raise PolicyError("engine is neither fast nor mitmproxy")
        for authority, (address, port) in self.upstreams.items():
            host, of = split_authority(authority)
            if of is None or join_authority(host, of) != authority:
                raise PolicyError(f"upstream {authority!r} is not a canonical host:port")
            check_upstream_address(address, port)
        object.__setattr__(self, "upstreams", MappingProxyType(dict(self.upstreams)))

    @property
    def served_by(self) -> Engine:
        """The engine that it names; clients that show a certificate at the door, and requests that wait for a
        person, are always mitmproxy's."""
        return "mitmproxy" if self.proxy_auth == "mtls" or self.unknown == "ask" else self.engine

    def upstream(self, host: str, port: int) -> Upstream | None:
        """The address that a canonical host and port is mapped to, or None: resolve it."""
        return self.upstreams.get(join_authority(host, port))

    def credentialed(self, host: str) -> bool:
        """Whether a canonical host gets a credential of ours by some rule. Then requests to it by other
        rules are held to the same: no credential but ours, nothing that could change a request."""
        return any(rule.credentialed and rule.pattern_for(host) is not None for rule in self.rules)

    def to_json(self) -> dict[str, Any]:
        """A JSON object; ``from_json`` gives back an equal policy."""
        return {
            "profile": self.profile,
            "rules": [rule.to_json() for rule in self.rules],
            "upstreams": {name: list(address) for name, address in self.upstreams.items()},
            "proxy_auth": self.proxy_auth,
            "stray_placeholders": self.stray_placeholders,
            "engine": self.engine,
            "unknown": self.unknown,
            "ask_seconds": self.ask_seconds,
            "only": None if self.only is None else [rule.to_json() for rule in self.only],
        }

    @classmethod
    def from_json(cls, data: object) -> Policy:
        """Read what ``to_json`` wrote. Any other shape, a key more or less: ``PolicyError`` (or another
        ``ValueError`` from the patterns)."""
        values = _object(data, _POLICY_KEYS, "policy")
        upstreams: dict[str, Upstream] = {}
        for name, address in _typed(values["upstreams"], dict, "upstreams").items():
            if not isinstance(address, list) or [type(part) for part in address] != [str, int]:
                raise PolicyError(f"upstream {name!r} is not an address and a port")
            upstreams[name] = (address[0], address[1])
        return cls(
            profile=_typed(values["profile"], str, "profile"),
            rules=tuple(Rule.from_json(rule) for rule in _typed(values["rules"], list, "rules")),
            upstreams=upstreams,
            proxy_auth=cast("ProxyAuth", _typed(values["proxy_auth"], str, "proxy_auth")),
            stray_placeholders=cast(
                "StrayPlaceholders", _typed(values["stray_placeholders"], str, "stray_placeholders")
            ),
            engine=cast("Engine", _typed(values["engine"], str, "engine")),
            unknown=cast("Unknown", _typed(values["unknown"], str, "unknown")),
            ask_seconds=_typed(values["ask_seconds"], int, "ask_seconds"),
            only=None
            if values["only"] is None
            else tuple(Rule.from_json(rule) for rule in _typed(values["only"], list, "only")),
        )


_POLICY_KEYS = tuple(entry.name for entry in fields(Policy))


def check_upstream_address(address: str, port: int) -> None:
    """Refuse (``PolicyError``) what no mapped upstream can be: names, multicast, metadata addresses."""
    if canonical_host(address) != address or not is_ip(address) or not 0 < port < 65536:
        raise PolicyError(f"upstream address {address!r} is not an IP address with a port")
    parsed = ipaddress.ip_address(address)
    if parsed.is_multicast or parsed.is_unspecified or parsed.is_link_local:
        raise PolicyError(f"upstream address {address} is unspecified, multicast or link-local")
    if parsed in METADATA:
        raise PolicyError(f"upstream address {address} is that of a metadata service")


@lru_cache(maxsize=256)
def is_local(address: str) -> bool:
    """Whether a mapped address is of this machine or its private networks (RFC 6890), so that a
    credential may go there without TLS."""
    return not ipaddress.ip_address(address).is_global


def _object(data: object, keys: Iterable[str], what: str) -> dict[str, Any]:
    values: dict[str, Any] = _typed(data, dict, what)
    wrong = set(keys) ^ set(values)
    if wrong:
        raise PolicyError(f"{what} has unknown or missing keys: {sorted(map(str, wrong))}")
    return values


def _list(data: object, kind: type, what: str) -> list[Any]:
    values: list[Any] = _typed(data, list, what)
    for value in values:
        _typed(value, kind, what)
    return values


def _typed(value: object, kind: type, what: str) -> Any:
    # By exact type: JSON's true is an int to isinstance.
    if type(value) is not kind:
        raise PolicyError(f"{what} is not of type {kind.__name__}")
    return value
