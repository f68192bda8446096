"""What a request says about its destination, gathered from every place that can say so.

Nothing is decided here and nothing is left out: ``authority`` compares all of it. The engine's own
idea of a request's host, which follows the Host header where that is convenient, is never asked.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from nsharness.policy.authority import Authority, Claims
from nsharness.policy.hosts import HostError, join_authority, split_authority
from nsharness.policy.names import NameTable

Entrance = Literal["explicit", "http", "https"]
"""The three listeners of a sandbox: ports 3128, 80 and 443 of its gateway."""

PORTS: dict[Entrance, int] = {"explicit": 3128, "http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a client connection arrived: by which listener, and at which address of the gateway."""

    entrance: Entrance
    address: str

    @property
    def dialled(self) -> tuple[str, int]:
        """The destination that the client's kernel was told. The port is the listener's."""
        return self.address, PORTS[self.entrance]


@dataclass(frozen=True, slots=True)
class Named:
    """What a request itself says: scheme and authority of its absolute form, or its ``:authority``, all empty
    where there is none; its Host headers; and of the TLS that it came in, the name in the handshake."""

    scheme: str = ""
    absolute: str = ""
    pseudo: str = ""
    hosts: tuple[str, ...] = ()
    tls: bool = False
    sni: str | None = None


def of_request(origin: Origin, names: NameTable, tunnel: Authority | None, named: Named) -> Claims:
    """The claims of a request; ``tunnel`` is the destination of the CONNECT tunnel that it came through."""
    if origin.entrance != "explicit":
        return Claims(
            "transparent",
            issued_name=names.name_of(origin.address),
            dialled=origin.dialled,
            authority_header=named.pseudo or None,
            absolute_uri_authority=named.absolute or None,
            absolute_uri_scheme=named.scheme or None,
            sni=named.sni,
            host_headers=named.hosts,
            tls=named.tls,
        )
    return Claims(
        "connect" if tunnel else "forward",
        connect_target=join_authority(tunnel.host, tunnel.port) if tunnel else None,
        authority_header=named.pseudo or None,
        absolute_uri_authority=named.absolute or None,
        absolute_uri_scheme=named.scheme or None,
        sni=named.sni,
        host_headers=named.hosts,
        tls=named.tls,
    )


def of_connection(origin: Origin, names: NameTable) -> Claims:
    """The claims of a transparent connection before anything was said on it."""
    name = names.name_of(origin.address)
    # There is no request yet whose Host header could be missing.
    here = join_authority(name or origin.address, origin.dialled[1])
    return Claims("transparent", issued_name=name, dialled=origin.dialled, authority_header=here)


def of_connect(target: str, hosts: tuple[str, ...]) -> Claims:
    """The claims of a CONNECT request for ``target``, with its Host headers.

    Its Host header is never forwarded, and several clients send none, or one without the port: what
    is there must agree, what is not there is no claim.
    """
    return Claims(
        "connect",
        connect_target=target,
        authority_header=target,
        host_headers=tuple(_with_port_of(target, host) for host in hosts),
    )


def _with_port_of(target: str, host: str) -> str:
    try:
        name, port = split_authority(host)
        _, target_port = split_authority(target)
    except HostError:
        return host
    return host if port or not target_port else join_authority(name, target_port)
