"""One road: what a sandbox sees of the network just before it runs anything, looked at from inside.

How it was set up is not asked. The kernel's own tables must show loopback and one pair of interfaces, one way
out, and somebody at its end who refuses what nobody listens for. It needs no proxy and takes well under a
millisecond.
"""

from __future__ import annotations

import errno
import socket
import struct
from typing import Final

from nsharness.sandbox.assemble import StepFailedError

GATEWAY_ADDRESS: Final = "10.127.0.1"
_INTERFACES: Final = frozenset({"lo", "eth0"})
_CLOSED_PORT: Final = 1
_SECONDS: Final = 1.0

_RTM_GETROUTE, _RTM_NEWROUTE = 26, 24
_DUMP: Final = 0x301  # NLM_F_REQUEST | NLM_F_DUMP
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_HEADER: Final = struct.Struct("=IHHII")
_ROUTE: Final = struct.Struct("=8BI")
_RTA_OIF, _RTA_GATEWAY = 4, 5
_RTN_UNICAST: Final = 1


def check() -> None:
    """Return if there is exactly one road; ``StepFailedError``, which ends the start, if there is not."""
    interfaces = {name: index for index, name in socket.if_nameindex()}
    if set(interfaces) != _INTERFACES:
        raise _failed(f"the interfaces are {', '.join(sorted(interfaces)) or 'none'}")
    expected = (socket.AF_INET, socket.inet_aton(GATEWAY_ADDRESS), interfaces["eth0"])
    if default_routes() != [expected]:
        raise _failed("there is not exactly one default route, to the gateway")
    _refused(GATEWAY_ADDRESS, _CLOSED_PORT)


def default_routes() -> list[tuple[int, bytes, int]]:
    """Family, gateway and interface of every default route that leads somewhere, in all tables
    (rtnetlink(7)). One over several paths has no gateway of its own, so that it equals no expectation."""
    routes: list[tuple[int, bytes, int]] = []
    with socket.socket(
        socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE
    ) as link:
        link.settimeout(_SECONDS)
        body = _ROUTE.pack(*bytes(8), 0)
        link.sendto(_HEADER.pack(_HEADER.size + len(body), _RTM_GETROUTE, _DUMP, 1, 0) + body, (0, 0))
        while True:
            data, offset = link.recv(1 << 16), 0
            while offset + _HEADER.size <= len(data):
                length, kind, _, _, _ = _HEADER.unpack_from(data, offset)
                if kind == _NLMSG_DONE:
                    return routes
                if kind == _NLMSG_ERROR or length < _HEADER.size:
                    raise _failed("the routes cannot be read")
                if kind == _RTM_NEWROUTE:
                    family, prefix, _, _, _, _, _, sort, _ = _ROUTE.unpack_from(data, offset + _HEADER.size)
                    if prefix == 0 and sort == _RTN_UNICAST:
                        found = _attributes(data[offset + _HEADER.size + _ROUTE.size : offset + length])
                        (device,) = struct.unpack("=I", found.get(_RTA_OIF, bytes(4)))
                        routes.append((family, found.get(_RTA_GATEWAY, b""), device))
                offset += (length + 3) & ~3


def _attributes(data: bytes) -> dict[int, bytes]:
    found, offset = {}, 0
    while offset + 4 <= len(data):
        length, kind = struct.unpack_from("=HH", data, offset)
        if length < 4:
            break
        found[kind] = data[offset + 4 : offset + length]
        offset += (length + 3) & ~3
    return found


def _refused(address: str, port: int) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as sock:
        sock.settimeout(_SECONDS)
        try:
            sock.connect((address, port))
        except ConnectionRefusedError:
            return
        except OSError as error:
            raise _failed(f"the gateway does not refuse: {error.strerror or 'no answer'}") from None
    raise _failed("the gateway takes what nobody listens for")


def _failed(why: str) -> StepFailedError:
    return StepFailedError(errno.ENETUNREACH, f"the sandbox does not have exactly one road: {why}")
