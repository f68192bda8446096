"""The airlock: two network namespaces joined by one veth pair, and the sockets that listen in the outer one.

::

    sandbox                         gateway
    lo (free for the workload)      gw0 10.127.0.1/30
    eth0 10.127.0.2/30 ── veth ──   lo: local 0.0.0.0/0
    default via 10.127.0.1          sockets on 80, 443, 3128, 53

The gateway has no other interface and forwards nothing. Because every IPv4 address is local to it, whatever
the workload dials arrives at one of the listeners (``getsockname(2)`` tells which address was meant) or is
refused by the gateway's own kernel stack at once. The addresses are the same in every sandbox; pairs never
meet.

Runs in the zygote: the caller needs CAP_SYS_ADMIN and CAP_NET_ADMIN in its own user namespace, which will
own both network namespaces. A workload that won every capability in its *own* user namespace could still
not change them.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from nsharness.frozen import frozen
from nsharness.linux.fds import close_all
from nsharness.linux.submodules import behind

# Its __init__ imports databases, event loops and more: 70 ms, and pages that every sandbox's fork would copy.
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

GATEWAY_ADDRESS: Final = "10.127.0.1"
SANDBOX_ADDRESS: Final = "10.127.0.2"
_NETWORK_ADDRESS: Final = "10.127.0.0"
PROXY_PORT: Final = 3128
MTLS_PORT: Final = 3129
"""Where the proxy is, instead, in gateways of sandboxes that identify themselves by a certificate."""

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
_IP_PKTINFO: Final = 8
_BACKLOG: Final = 4096


@frozen
class Gateway:
    """What keeps one gateway alive: its listeners and a descriptor of each network namespace."""

    listeners: tuple[int, ...]
    """TCP 80, TCP 443, the proxy's (TCP 3128 or 3129), UDP 53, TCP 53, in this order."""
    gateway_netns: int
    sandbox_netns: int

    def close(self) -> None:
        """Let go of everything; the namespaces go when the sandbox and the proxy have let go too."""
        close_all((*self.listeners, self.gateway_netns, self.sandbox_netns))


def create(proxy_port: int = PROXY_PORT) -> Gateway:
    """Make both namespaces, join them and open the listeners, that of the proxy at ``proxy_port``: the other
    of its two ports is closed like any other. The caller's own namespace is unchanged.

    ``OSError`` names the step that the kernel refused; nothing is left then.
    """
    opened: list[int] = []
    try:
        with _own_netns_restored():
            opened.append(_new_netns())
            gateway_netns = opened[-1]
            with _netlink() as gateway_link:
                _write_sysctls(
                    ("net/ipv6/conf/default/disable_ipv6", "1"),
                    # A burst of UDP to closed ports must be answered in full, or the senders hang: no type of
                    # ICMP is limited, neither by destination (icmp_ratelimit) nor in all (icmp_msgs_per_sec).
                    ("net/ipv4/icmp_ratemask", "0"),
                    # Ports below 1024 without CAP_NET_BIND_SERVICE, which a privileged zygote gives up.
                    ("net/ipv4/ip_unprivileged_port_start", "0"),
                )
                opened.append(_new_netns())
                sandbox_netns = opened[-1]
                _write_sysctls(("net/ipv6/conf/default/disable_ipv6", "1"))
                _transact(gateway_link, _gateway_requests(sandbox_netns), "the gateway's network")
                with _netlink() as sandbox_link:
                    _transact(sandbox_link, _sandbox_requests(), "the sandbox's network")
                # The gateway's end was up before it had a carrier, and the kernel starts its queue some time
                # after: until then packets are dropped. Asking for its state does that work at once.
                _transact(gateway_link, [_state_of(_VETH)], "the gateway's link")
            os.setns(gateway_netns, os.CLONE_NEWNET)
            listeners = []
            for kind, port in (
                (socket.SOCK_STREAM, 80),
                (socket.SOCK_STREAM, 443),
                (socket.SOCK_STREAM, proxy_port),
                (socket.SOCK_DGRAM, 53),
                (socket.SOCK_STREAM, 53),
            ):
                opened.append(_listen(kind, port))
                listeners.append(opened[-1])
            return Gateway(tuple(listeners), gateway_netns, sandbox_netns)
    except BaseException:
        close_all(opened)
        raise


@contextmanager
def _own_netns_restored() -> Iterator[None]:
    own = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield
    finally:
        os.setns(own, os.CLONE_NEWNET)
        os.close(own)


def _new_netns() -> int:
    os.unshare(os.CLONE_NEWNET)
    return os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)


def _write_sysctls(*settings: tuple[str, str]) -> None:
    """``/proc/sys/net`` shows the network namespace of whoever opens it."""
    for name, value in settings:
        try:
            Path("/proc/sys", name).write_text(value, encoding="ascii")
        except FileNotFoundError:
            if "ipv6" not in name:  # A kernel without IPv6 has nothing to switch off.
                raise


def _listen(kind: socket.SocketKind, port: int) -> int:
    protocol = socket.IPPROTO_TCP if kind == socket.SOCK_STREAM else socket.IPPROTO_UDP
    with socket.socket(socket.AF_INET, kind, protocol) as sock:
        if kind == socket.SOCK_STREAM:
            # Accepted sockets inherit it. asyncio sets it only for sockets that say they are TCP.
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        else:
            sock.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)
        sock.bind(("0.0.0.0", port))
        if kind == socket.SOCK_STREAM:
            sock.listen(_BACKLOG)
        return sock.detach()


def _gateway_requests(sandbox_netns: int) -> list[tuple[Any, int, int]]:
    return [
        _veth(sandbox_netns),
        _address(GATEWAY_ADDRESS),
        _up(_VETH),
        _up(_LO),
        _route("0.0.0.0", 0, kind=_RTN_LOCAL, table=_TABLE_LOCAL, scope=_SCOPE_HOST, device=_LO),
        _neighbour(SANDBOX_ADDRESS, _SANDBOX_MAC),
    ]


def _sandbox_requests() -> list[tuple[Any, int, int]]:
    return [
        _address(SANDBOX_ADDRESS),
        _up(_VETH),
        _up(_LO),
        _route("0.0.0.0", 0, gateway=GATEWAY_ADDRESS),
        # Multicast and reserved addresses have no listener that could refuse: refuse them here.
        _route("224.0.0.0", 3, kind=_RTN_UNREACHABLE),
        # Nobody has the pair's own network address: looking for its owner takes three seconds.
        _route(_NETWORK_ADDRESS, 32, kind=_RTN_UNREACHABLE),
        _neighbour(GATEWAY_ADDRESS, _GATEWAY_MAC),
    ]


def _veth(peer_netns: int) -> tuple[Any, int, int]:
    peer = ifinfmsg()
    peer["index"] = _VETH
    peer_attributes = [
        ("IFLA_IFNAME", "eth0"),
        ("IFLA_ADDRESS", _SANDBOX_MAC),
        ("IFLA_NET_NS_FD", peer_netns),
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


def _state_of(index: int) -> tuple[Any, int, int]:
    link = ifinfmsg()
    link["index"] = index
    return link, RTM_GETLINK, 0


def _up(index: int) -> tuple[Any, int, int]:
    link = ifinfmsg()
    link["index"] = index
    link["flags"] = link["change"] = _IFF_UP
    return link, RTM_SETLINK, 0


def _address(address: str) -> tuple[Any, int, int]:
    message = ifaddrmsg()
    message["family"] = socket.AF_INET
    message["index"] = _VETH
    message["prefixlen"] = 30
    message["attrs"] = [("IFA_LOCAL", address), ("IFA_ADDRESS", address)]
    return message, RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL


def _route(
    destination: str,
    prefix: int,
    *,
    kind: int = _RTN_UNICAST,
    table: int = _TABLE_MAIN,
    scope: int = _SCOPE_UNIVERSE,
    gateway: str | None = None,
    device: int | None = None,
) -> tuple[Any, int, int]:
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


def _neighbour(address: str, mac: str) -> tuple[Any, int, int]:
    """Both ends know each other from the start: the first packet waits for no ARP exchange."""
    message = ndmsg()
    message["family"] = socket.AF_INET
    message["ifindex"] = _VETH
    message["state"] = _NUD_PERMANENT
    message["attrs"] = [("NDA_DST", address), ("NDA_LLADDR", mac)]
    return message, RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_EXCL


def _netlink() -> socket.socket:
    return socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)


def _transact(link: socket.socket, requests: Sequence[tuple[Any, int, int]], what: str) -> None:
    """Send all requests in one datagram and wait for every acknowledgement (netlink(7)).

    pyroute2 encodes the messages; its own socket sends one at a time and costs five times as much.
    """
    datagram = bytearray()
    for number, (message, kind, flags) in enumerate(requests, start=1):
        message["header"] = {
            "type": kind,
            "flags": NLM_F_REQUEST | NLM_F_ACK | flags,
            "sequence_number": number,
            "pid": 0,
        }
        message.encode()
        datagram += message.data
    link.sendto(datagram, (0, 0))
    unacknowledged = set(range(1, len(requests) + 1))
    while unacknowledged:
        reply = link.recv(65536)
        offset = 0
        while offset + 16 <= len(reply):
            length, kind, _, number, _ = struct.unpack_from("=IHHII", reply, offset)
            if length < 16:
                raise OSError(errno.EPROTO, f"{what}: malformed netlink reply")
            if kind == 2:  # NLMSG_ERROR; code 0 is the acknowledgement.
                (code,) = struct.unpack_from("=i", reply, offset + 16)
                if code:
                    step = type(requests[number - 1][0]).__name__
                    raise OSError(-code, f"{what}, step {number} ({step}): {os.strerror(-code)}")
                unacknowledged.discard(number)
            offset += (length + 3) & ~3
