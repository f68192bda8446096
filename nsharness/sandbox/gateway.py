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

import contextlib
import errno
import json
import os
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Final

from nsharness.errors import ASK_DOCTOR, NsharnessError
from nsharness.frozen import frozen
from nsharness.linux.fds import close_all
from nsharness.sandbox import encoding

PROXY_PORT: Final = 3128
MTLS_PORT: Final = 3129
"""Where the proxy is, instead, in gateways of sandboxes that identify themselves by a certificate."""

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
    of_gateway, of_sandbox, of_link = datagrams()
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
                _transact(gateway_link, of_gateway.about(sandbox_netns), "the gateway's network")
                with _netlink() as sandbox_link:
                    _transact(sandbox_link, of_sandbox, "the sandbox's network")
                # The gateway's end was up before it had a carrier, and the kernel starts its queue some time
                # after: until then packets are dropped. Asking for its state does that work at once.
                _transact(gateway_link, of_link, "the gateway's link")
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
            setting = os.open(f"/proc/sys/{name}", os.O_WRONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            if "ipv6" in name:  # A kernel without IPv6 has nothing to switch off.
                continue
            raise
        try:
            os.write(setting, value.encode())
        finally:
            os.close(setting)


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


def _netlink() -> socket.socket:
    return socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)


def _transact(link: socket.socket, asked: Datagram, what: str) -> None:
    """Send all requests in one datagram and wait until the last has been acknowledged (netlink(7))."""
    link.sendto(asked.content, (0, 0))
    while True:
        reply = link.recv(65536)
        offset = 0
        while offset + 16 <= len(reply):
            length, kind, _, number, _ = struct.unpack_from("=IHHII", reply, offset)
            if length < 16:
                raise OSError(errno.EPROTO, f"{what}: malformed netlink reply")
            if kind == 2:  # NLMSG_ERROR; code 0 is the acknowledgement.
                (code,) = struct.unpack_from("=i", reply, offset + 16)
                if code:
                    step = asked.kinds[number - 1]
                    raise OSError(-code, f"{what}, step {number} ({step}): {os.strerror(-code)}")
                if number == len(asked.kinds):
                    return
            offset += (length + 3) & ~3


@frozen
class Datagram:
    """Requests to the kernel, numbered from 1, of which the last is acknowledged."""

    content: bytes
    kinds: tuple[str, ...]
    """What kind of message each is, for people."""
    netns_at: int | None = None
    """Where the descriptor of the sandbox's network namespace belongs."""

    def about(self, netns: int) -> Datagram:
        """The same, about this namespace."""
        assert self.netns_at is not None
        content = bytearray(self.content)
        struct.pack_into("=i", content, self.netns_at, netns)
        return Datagram(bytes(content), self.kinds)


@cache
def datagrams() -> tuple[Datagram, ...]:
    """What is asked in the gateway, in the sandbox, and of the gateway's interface at the end.

    ``NsharnessError`` when the process that encodes it could not.
    """
    pid, pipe = encoding.encoder()
    encoding.encoder.cache_clear()  # For another attempt, should this one fail.
    with os.fdopen(pipe, "rb") as stream:
        text = stream.read()
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, 0)
    try:
        encoded = json.loads(text)
    except ValueError:
        why = "the process that encodes what the kernel is asked has failed"
        raise NsharnessError("cannot make a gateway", why=why, hint=ASK_DOCTOR) from None
    return tuple(Datagram(bytes.fromhex(each), tuple(kinds), at) for each, kinds, at in encoded)
