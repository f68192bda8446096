"""What the kernel is asked for a gateway (rtnetlink(7)): encoded once for all gateways that there will be.

Loaded only by the process that does it, which ends right after (``nsharness.sandbox.encoding``): pyroute2,
and with it threads and loggers, which watch over forks, would make each fork of the zygote dearer and each
sandbox larger.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Sequence
from typing import Any, Final

from nsharness.linux.submodules import behind

# Its __init__ imports databases, event loops and more: 70 ms.
with behind("pyroute2"):
    from pyroute2.netlink import NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REQUEST
    from pyroute2.netlink.rtnl import (
        RTM_GETLINK,
        RTM_NEWADDR,
        RTM_NEWLINK,
        RTM_NEWNEIGH,
        RTM_NEWROUTE,
        RTM_SETLINK,
    )
    from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
    from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
    from pyroute2.netlink.rtnl.ndmsg import ndmsg
    from pyroute2.netlink.rtnl.rtmsg import rtmsg

type Request = tuple[Any, int, int]
"""A message, its type and its flags."""

_GATEWAY_ADDRESS: Final = "10.127.0.1"
_SANDBOX_ADDRESS: Final = "10.127.0.2"
_NETWORK_ADDRESS: Final = "10.127.0.0"
_NETNS: Final = 0x5A5A_5A5A  # Stands for the descriptor of the sandbox's network namespace.
_LO: Final = 1
_VETH: Final = 2  # Both ends: the first index that a new network namespace gives away.
_GATEWAY_MAC: Final = "02:00:0a:7f:00:01"
_SANDBOX_MAC: Final = "02:00:0a:7f:00:02"
_IFF_UP: Final = 1
_NUD_PERMANENT: Final = 0x80
_TABLE_MAIN: Final = 254
_TABLE_LOCAL: Final = 255
_RTN_UNICAST, _RTN_LOCAL, _RTN_UNREACHABLE = 1, 2, 7
_SCOPE_UNIVERSE, _SCOPE_HOST = 0, 254
_PROTOCOL_STATIC: Final = 4


def datagrams() -> list[tuple[str, list[str], int | None]]:
    """Each in hexadecimal, with the kinds of its messages and where in it the descriptor of the sandbox's
    namespace belongs: what is asked in the gateway, in the sandbox, and, for its state, of the interface."""
    found: list[tuple[str, list[str], int | None]] = []
    for requests in (_gateway_requests(), _sandbox_requests(), [_state_of(_VETH)]):
        content, at = datagram(requests), None
        if (marker := struct.pack("=I", _NETNS)) in content:
            at = content.index(marker)
        found.append((content.hex(), [type(message).__name__ for message, _, _ in requests], at))
    return found


def datagram(requests: Sequence[Request]) -> bytes:
    """Messages numbered from 1. The last is acknowledged; whatever is refused is answered (netlink(7))."""
    content = bytearray()
    for number, (message, kind, flags) in enumerate(requests, start=1):
        last = NLM_F_ACK if number == len(requests) else 0
        message["header"] = {
            "type": kind,
            "flags": NLM_F_REQUEST | flags | last,
            "sequence_number": number,
            "pid": 0,
        }
        message.encode()
        content += message.data
    return bytes(content)


def _gateway_requests() -> list[Request]:
    return [
        _veth(),
        _address(_GATEWAY_ADDRESS),
        _up(_VETH),
        _up(_LO),
        route("0.0.0.0", 0, kind=_RTN_LOCAL, table=_TABLE_LOCAL, scope=_SCOPE_HOST, device=_LO),
        _neighbour(_SANDBOX_ADDRESS, _SANDBOX_MAC),
    ]


def _sandbox_requests() -> list[Request]:
    return [
        _address(_SANDBOX_ADDRESS),
        _up(_VETH),
        _up(_LO),
        route("0.0.0.0", 0, gateway=_GATEWAY_ADDRESS),
        # Multicast and reserved addresses have no listener that could refuse: refuse them here.
        route("224.0.0.0", 3, kind=_RTN_UNREACHABLE),
        # Nobody has the pair's own network address: looking for its owner takes three seconds.
        route(_NETWORK_ADDRESS, 32, kind=_RTN_UNREACHABLE),
        _neighbour(_GATEWAY_ADDRESS, _GATEWAY_MAC),
    ]


def _veth() -> Request:
    peer = ifinfmsg()
    peer["index"] = _VETH
    peer_attributes = [
        ("IFLA_IFNAME", "eth0"),
        ("IFLA_ADDRESS", _SANDBOX_MAC),
        ("IFLA_NET_NS_FD", _NETNS),
    ]
    link = ifinfmsg()
    link["index"] = _VETH
    link["attrs"] = [
        ("IFLA_IFNAME", "gw0"),
        ("IFLA_ADDRESS", _GATEWAY_MAC),
        (
            "IFLA_LINKINFO",
            {
                "attrs": [
                    ("IFLA_INFO_KIND", "veth"),
                    (
                        "IFLA_INFO_DATA",
                        {"attrs": [("VETH_INFO_PEER", {"index": _VETH, "attrs": peer_attributes})]},
                    ),
                ]
            },
        ),
    ]
    return link, RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL


def _state_of(index: int) -> Request:
    link = ifinfmsg()
    link["index"] = index
    return link, RTM_GETLINK, 0


def _up(index: int) -> Request:
    link = ifinfmsg()
    link["index"] = index
    link["flags"] = link["change"] = _IFF_UP
    return link, RTM_SETLINK, 0


def _address(address: str) -> Request:
    message = ifaddrmsg()
    message["family"] = socket.AF_INET
    message["index"] = _VETH
    message["prefixlen"] = 30
    message["attrs"] = [("IFA_LOCAL", address), ("IFA_ADDRESS", address)]
    return message, RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL


def route(
    destination: str,
    prefix: int,
    *,
    kind: int = _RTN_UNICAST,
    table: int = _TABLE_MAIN,
    scope: int = _SCOPE_UNIVERSE,
    gateway: str | None = None,
    device: int | None = None,
) -> Request:
    message = rtmsg()
    message["family"] = socket.AF_INET
    message["dst_len"] = prefix
    message["table"] = table
    message["proto"] = _PROTOCOL_STATIC
    message["scope"] = scope
    message["type"] = kind
    attributes: list[tuple[str, object]] = []
    if prefix:
        attributes.append(("RTA_DST", destination))
    if gateway is not None:
        attributes.append(("RTA_GATEWAY", gateway))
    if device is not None:
        attributes.append(("RTA_OIF", device))
    message["attrs"] = attributes
    return message, RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL


def _neighbour(address: str, mac: str) -> Request:
    """Both ends know each other from the start: the first packet waits for no ARP exchange."""
    message = ndmsg()
    message["family"] = socket.AF_INET
    message["ifindex"] = _VETH
    message["state"] = _NUD_PERMANENT
    message["attrs"] = [("NDA_DST", address), ("NDA_LLADDR", mac)]
    return message, RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_EXCL
