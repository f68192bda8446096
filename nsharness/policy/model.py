"""The policy of one sandbox as plain values, and its JSON form for the proxy process.

A profile (``profile.py``) is what people write; this is what is left of it for deciding: no
template, no secret, nothing but the standard library. Reading it back is strict, because the proxy
must rather serve nothing than serve something that was meant otherwise.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal, cast

from nsharness.policy.hosts import HostPattern, canonical_host, is_ip, join_authority, split_authority
from nsharness.policy.paths import PathGlob
from nsharness.policy.request import TOKEN

ProxyAuth = Literal["listener", "bearer"]
Upstream = tuple[str, int]


class PolicyError(ValueError):
    """A policy, or its JSON form, that is not exactly what this module writes."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One thing that is allowed. None means any; a condition that is present is never empty.

    ``header_names`` are the headers that the proxy injects for it, in the profile's spelling.
    """

    name: str
    hosts: tuple[HostPattern, ...]
    header_names: tuple[str, ...] = ()
    methods: frozenset[str] | None = None
    paths: tuple[PathGlob, ...] | None = None
    ports: frozenset[int] | None = None
    allow_any: bool = False

    def __post_init__(self) -> None:
        # Empty conditions read as "none" by one reader and as "any" by the next, so there are none.
        for what in ("hosts", "methods", "paths", "ports"):
            value = getattr(self, what)
            if value is not None and not value:
                raise PolicyError(f"rule {self.name!r} has empty {what}")
        if self.hosts is None:
            raise PolicyError(f"rule {self.name!r} has no hosts")
        if self.allow_any and self.header_names:
            raise PolicyError(f"rule {self.name!r} has headers, which go to named hosts only, and allow_any")
        if any(not 0 < port < 65536 for port in self.ports or ()):
            raise PolicyError(f"rule {self.name!r} has a port out of range")
        if not all(TOKEN.fullmatch(text) for text in (*(self.methods or ()), *self.header_names)):
            raise PolicyError(f"rule {self.name!r} has a method or a header name that is no token")

    @property
    def conditional(self) -> bool:
        """Whether the rule depends on more than host and port, so that its requests must be inspected."""
        return bool(self.header_names) or self.methods is not None or self.paths is not None

    def pattern_for(self, host: str) -> HostPattern | None:
        """The first pattern that matches a canonical host."""
        return next((pattern for pattern in self.hosts if pattern.matches(host)), None)

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "hosts": [str(pattern) for pattern in self.hosts],
            "header_names": list(self.header_names),
            "methods": None if self.methods is None else sorted(self.methods),
            "paths": None if self.paths is None else [str(glob) for glob in self.paths],
            "ports": None if self.ports is None else sorted(self.ports),
            "allow_any": self.allow_any,
        }

    @classmethod
    def from_json(cls, data: object) -> Rule:
        known = ("name", "hosts", "header_names", "methods", "paths", "ports", "allow_any")
        values = _object(data, known, "rule")
        allow_any = _typed(values["allow_any"], bool, "allow_any")
        methods, paths, ports = (
            None if values[key] is None else _list(values[key], kind, key)
            for key, kind in (("methods", str), ("paths", str), ("ports", int))
        )
        return cls(
            name=_typed(values["name"], str, "name"),
            hosts=tuple(
                HostPattern.parse(t, allow_any=allow_any) for t in _list(values["hosts"], str, "hosts")
            ),
            header_names=tuple(_list(values["header_names"], str, "header_names")),
            methods=None if methods is None else frozenset(methods),
            paths=None if paths is None else tuple(PathGlob.parse(text) for text in paths),
            ports=None if ports is None else frozenset(ports),
            allow_any=allow_any,
        )


@dataclass(frozen=True, slots=True)
class Policy:
    """Everything the proxy decides by for one sandbox. No rules: everything is denied.

    ``upstreams`` maps ``host:port`` (canonical, IPv6 in brackets) to the address and port that the
    proxy connects to instead of resolving the name.
    """

    profile: str
    rules: tuple[Rule, ...] = ()
    upstreams: Mapping[str, Upstream] = field(default_factory=dict)
    proxy_auth: ProxyAuth = "listener"

    def __post_init__(self) -> None:
        if self.proxy_auth not in ("listener", "bearer"):
            raise PolicyError("proxy_auth is neither listener nor bearer")
        for authority, (address, port) in self.upstreams.items():
            host, of = split_authority(authority)
            if of is None or join_authority(host, of) != authority:
                raise PolicyError(f"upstream {authority!r} is not a canonical host:port")
            check_upstream_address(address, port)
        object.__setattr__(self, "upstreams", MappingProxyType(dict(self.upstreams)))

    def upstream(self, host: str, port: int) -> Upstream | None:
        """The address that a canonical host and port is mapped to, or None: resolve it."""
        return self.upstreams.get(join_authority(host, port))

    def to_json(self) -> dict[str, Any]:
        """A JSON object; ``from_json`` gives back an equal policy."""
        return {
            "profile": self.profile,
            "rules": [rule.to_json() for rule in self.rules],
            "upstreams": {name: list(address) for name, address in self.upstreams.items()},
            "proxy_auth": self.proxy_auth,
        }

    @classmethod
    def from_json(cls, data: object) -> Policy:
        """Read what ``to_json`` wrote. Any other shape, a key more or less: ``PolicyError`` (or another
        ``ValueError`` from the patterns)."""
        values = _object(data, ("profile", "rules", "upstreams", "proxy_auth"), "policy")
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
        )


def check_upstream_address(address: str, port: int) -> None:
    """Refuse (``PolicyError``) what no mapped upstream can be: names, multicast, metadata addresses."""
    if canonical_host(address) != address or not is_ip(address) or not 0 < port < 65536:
        raise PolicyError(f"upstream address {address!r} is not an IP address with a port")
    parsed = ipaddress.ip_address(address)
    if parsed.is_multicast or parsed.is_unspecified or parsed.is_link_local:
        raise PolicyError(f"upstream address {address} is unspecified, multicast or link-local")


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
