"""The way out: which address a host has, whether it may be connected to, and the connection.

The address that was checked is the address that is connected to, so a name that resolves
differently a moment later gains nothing.
"""

from __future__ import annotations

import asyncio
import concurrent.futures.thread  # noqa: F401 - asyncio imports it with the first look-up, which is too late here
import socket

from nsharness.policy.addresses import connectable
from nsharness.policy.hosts import is_ip
from nsharness.policy.model import Policy

RESOLVE_SECONDS = 10.0
CONNECT_SECONDS = 10.0
_MAX_ADDRESSES = 4

Address = tuple[str, int]


class UpstreamError(Exception):
    """There is no connection; ``reason`` is one of ``refusal.UPSTREAM_REASONS``."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


async def connect(policy: Policy, host: str, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """``dial``, as streams."""
    sock = await dial(policy, host, port)
    try:
        return await asyncio.open_connection(sock=sock)
    except OSError:
        sock.close()
        raise UpstreamError("upstream-unreachable") from None
    except BaseException:
        sock.close()
        raise


async def dial(policy: Policy, host: str, port: int) -> socket.socket:
    """Connect to a canonical host that policy allows: where the profile maps it to, or to a public
    address of its own. ``UpstreamError`` says why not."""
    mapped = policy.upstream(host, port)
    addresses = [mapped] if mapped else await resolve(host, port)
    failure = UpstreamError("upstream-unreachable")
    for address in addresses:
        if mapped is None and is_own(address):
            failure = UpstreamError("upstream-address-refused")
            continue
        try:
            return await _open(address)
        except TimeoutError:
            failure = UpstreamError("upstream-timeout")
        except OSError:
            failure = UpstreamError("upstream-unreachable")
    raise failure


async def resolve(host: str, port: int) -> list[Address]:
    """The public addresses of a host, at most four; ``UpstreamError`` if there is none."""
    if is_ip(host):
        found = [host]
    else:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(RESOLVE_SECONDS):
                answers = await loop.getaddrinfo(
                    host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP
                )
        except TimeoutError:
            raise UpstreamError("upstream-timeout") from None
        except (OSError, UnicodeError):
            raise UpstreamError("upstream-name-not-found") from None
        found = list(dict.fromkeys(str(answer[4][0]) for answer in answers))
    public = [(address, port) for address in found if connectable(address) is None]
    if not public:
        raise UpstreamError("upstream-address-refused" if found else "upstream-name-not-found")
    return public[:_MAX_ADDRESSES]


def is_own(address: Address) -> bool:
    """Whether an address belongs to this machine: a public one of ours leads to services of ours too.

    Connecting a datagram socket sends nothing; its own address is then the one that a packet to the
    destination would carry, and only packets to ourselves carry the address they go to.
    """
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as probe:
        try:
            probe.connect(address)
        except OSError:
            return False
        return bool(probe.getsockname()[0] == address[0])


async def _open(address: Address) -> socket.socket:
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    # The protocol is named because asyncio switches off Nagle's algorithm only for sockets that name it.
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK, socket.IPPROTO_TCP)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        async with asyncio.timeout(CONNECT_SECONDS):
            await asyncio.get_running_loop().sock_connect(sock, address)
        return sock
    except BaseException:
        sock.close()
        raise
