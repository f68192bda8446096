"""What a request says about its destination, gathered from every place that can say so.

Nothing is decided here and nothing is left out: ``authority`` compares all of it. The engine's own
idea of a request's host, which follows the Host header where that is convenient, is never asked.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mitmproxy import http

from nsharness.policy import headers
from nsharness.policy.authority import Authority, Claims
from nsharness.policy.hosts import HostError, join_authority, split_authority
from nsharness.policy.names import NameTable
from nsharness_proxy.codec import PROTOCOL
from nsharness_proxy.layers import TARGET

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


def of_request(origin: Origin, names: NameTable, tunnel: Authority | None, flow: http.HTTPFlow) -> Claims:
    """The claims of a request; ``tunnel`` is the destination of the CONNECT tunnel that it came through."""
    client = flow.client_conn
    scheme, target = flow.metadata[TARGET]
    hosts = headers.values(flow.request.headers.fields, b"host")
    # There is no absolute form in HTTP/2, but a field for it (RFC 9113 section 8.3.1).
    pseudo, target = (target, "") if client.alpn == PROTOCOL else ("", target)
    if origin.entrance != "explicit":
        return Claims(
            "transparent",
            issued_name=names.name_of(origin.address),
            dialled=origin.dialled,
            authority_header=pseudo or None,
            absolute_uri_authority=target or None,
            absolute_uri_scheme=scheme or None,
            sni=client.sni,
            host_headers=hosts,
            tls=client.tls,
        )
    return Claims(
        "connect" if tunnel else "forward",
        connect_target=join_authority(tunnel.host, tunnel.port) if tunnel else None,
        authority_header=pseudo or None,
        absolute_uri_authority=target or None,
        absolute_uri_scheme=scheme or None,
        sni=client.sni,
        host_headers=hosts,
        tls=client.tls,
    )


def of_connection(origin: Origin, names: NameTable) -> Claims:
    """The claims of a transparent connection before anything was said on it."""
    name = names.name_of(origin.address)
    # There is no request yet whose Host header could be missing.
    here = join_authority(name or origin.address, origin.dialled[1])
    return Claims("transparent", issued_name=name, dialled=origin.dialled, authority_header=here)


def of_connect(flow: http.HTTPFlow) -> Claims:
    """The claims of a CONNECT request.

    Its Host header is never forwarded, and several clients send none, or one without the port: what
    is there must agree, what is not there is no claim.
    """
    target = flow.request.data.authority.decode("utf-8", "surrogateescape")
    hosts = headers.values(flow.request.headers.fields, b"host")
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
