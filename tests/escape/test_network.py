"""Ways out other than the one to the gateway, and changes of that way."""

from __future__ import annotations

import secrets
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

from tests.support.attacks import PRIVILEGED, Assault, weakness
from tests.support.sandboxes import needs_sandbox
from tests.support.tiers import others_slow

pytestmark = [needs_sandbox, pytest.mark.xdist_group("escape-network")]

HOSTS_NETWORK = weakness("hosts_network")
HOSTS_NAMES = weakness("hosts_network", "no_landlock")
PRIVILEGES = weakness(*PRIVILEGED)

ADDRESSES = ["127.0.0.1", "127.0.0.53", "127.1.2.3"]
QUERY = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x06canary\x04test\x00\x00\x01\x00\x01"


@contextmanager
def answering(kind: socket.SocketKind, address: str = "127.0.0.1") -> Iterator[int]:
    """A service of the host that answers everything with a word; its port."""
    with socket.socket(socket.AF_INET, kind) as service:
        service.bind((address, 0))
        if kind == socket.SOCK_STREAM:
            service.listen()

        def serve() -> None:
            with suppress(OSError):
                while True:
                    if kind == socket.SOCK_DGRAM:
                        data, peer = service.recvfrom(100)
                        if not data:
                            return
                        service.sendto(b"answer", peer)
                    else:
                        connection, _ = service.accept()
                        with connection:
                            if not connection.recv(100):
                                return
                            connection.sendall(b"answer")

        thread = threading.Thread(target=serve)
        thread.start()
        port: int = service.getsockname()[1]
        try:
            yield port
        finally:
            with socket.socket(socket.AF_INET, kind) as last:
                last.connect((address, port))
                last.send(b"") if kind == socket.SOCK_DGRAM else last.shutdown(socket.SHUT_WR)
                thread.join()


ASK = """
def ask(kind, content):
    with socket.socket(socket.AF_INET, kind) as sock:
        sock.settimeout(5)
        sock.connect((sys.argv[1], int(sys.argv[2])))
        sock.send(content)
        assert sock.recv(100) == b'answer'
"""


@pytest.mark.parametrize("address", others_slow(ADDRESSES))
def test_no_service_of_the_host_can_be_connected_to(assault: Assault, address: str) -> None:
    with answering(socket.SOCK_STREAM, address) as port:
        script = ASK + "done(lambda: ask(socket.SOCK_STREAM, b'hello'))"
        assault.python(HOSTS_NETWORK, script, address, str(port))


@pytest.mark.parametrize("address", ADDRESSES)
def test_no_datagram_reaches_a_service_of_the_host(assault: Assault, address: str) -> None:
    with answering(socket.SOCK_DGRAM, address) as port:
        script = ASK + "done(lambda: ask(socket.SOCK_DGRAM, b'hello'))"
        assault.python(HOSTS_NETWORK, script, address, str(port))


@pytest.mark.parametrize("kind", ["SOCK_DGRAM", "SOCK_STREAM"])
def test_dns_does_not_leave(assault: Assault, kind: str) -> None:
    """A query, whose name could carry anything, to a resolver of the host."""
    with answering(getattr(socket, kind)) as port:
        script = ASK + f"done(lambda: ask(socket.{kind}, {QUERY!r}))"
        assault.python(HOSTS_NETWORK, script, "127.0.0.1", str(port))


def test_the_hosts_listeners_cannot_be_listed(assault: Assault) -> None:
    with answering(socket.SOCK_STREAM) as port:
        assault.shell(HOSTS_NETWORK, 'grep -qi ":$1 " /proc/net/tcp && echo ESCAPED', f"{port:04X}")


@pytest.mark.parametrize("kind", ["SOCK_STREAM", "SOCK_DGRAM", "SOCK_SEQPACKET"])
def test_no_abstract_socket_of_the_host_can_be_connected_to(assault: Assault, kind: str) -> None:
    name = f"\0nsharness-test-{secrets.token_hex(8)}"
    with socket.socket(socket.AF_UNIX, getattr(socket, kind)) as service:
        service.bind(name)
        if kind != "SOCK_DGRAM":
            service.listen()
        script = f"done(lambda: socket.socket(socket.AF_UNIX, socket.{kind}).connect({name!r}))"
        assault.python(HOSTS_NAMES, script)


def test_the_hosts_unix_sockets_cannot_be_listed(assault: Assault) -> None:
    name = f"nsharness-test-{secrets.token_hex(8)}"
    with socket.socket(socket.AF_UNIX) as service:
        service.bind("\0" + name)
        assault.shell(HOSTS_NETWORK, 'grep -q "$1" /proc/net/unix && echo ESCAPED', name)


# --- the one way there is -----------------------------------------------------------------------------------

INTERFACE = """
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
def request(number, name, rest):
    return fcntl.ioctl(sock, number, struct.pack('16s', name) + rest.ljust(24, b'\\0'))
def address(text):
    return struct.pack('=HH4s8x', socket.AF_INET, 0, socket.inet_aton(text))
"""


@pytest.mark.parametrize("protocol", ["ICMP", "TCP", "RAW"])
def test_no_packet_can_be_made_by_hand(assault: Assault, protocol: str) -> None:
    script = f"done(lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_{protocol}))"
    assault.python(PRIVILEGES, script)


def test_nothing_can_be_heard_on_the_wire(assault: Assault) -> None:
    assault.python(PRIVILEGES, "done(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 768))")


def test_the_interface_cannot_be_switched_off(assault: Assault) -> None:
    assault.python(PRIVILEGES, INTERFACE + "done(lambda: request(0x8914, b'lo', struct.pack('H', 0)))")


def test_no_address_can_be_taken(assault: Assault) -> None:
    assault.python(PRIVILEGES, INTERFACE + "done(lambda: request(0x8916, b'eth0', address('10.9.8.7')))")


def test_the_hardware_address_cannot_be_changed(assault: Assault) -> None:
    script = "done(lambda: request(0x8924, b'eth0', struct.pack('H6s', 1, bytes((2, 0, 0, 0, 0, 9)))))"
    assault.python(PRIVILEGES, INTERFACE + script)


def test_the_interface_cannot_be_renamed(assault: Assault) -> None:
    assault.python(PRIVILEGES, INTERFACE + "done(lambda: request(0x8922, b'eth0', struct.pack('i', 1400)))")


NETLINK = """
def change(kind, flags, body):
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as link:
        link.send(struct.pack('=IHHII', 16 + len(body), kind, 0x5 | flags, 1, 0) + body)
        number = struct.unpack_from('=i', link.recv(4096), 16)[0]
        if number: raise OSError(-number, os.strerror(-number))
def attribute(kind, data):
    return struct.pack('=HH', 4 + len(data), kind) + data + bytes(-len(data) % 4)
"""


def test_no_interface_can_be_made(assault: Assault) -> None:
    """A second loopback-like one, of kind bridge, veth or dummy: whatever this kernel has."""
    script = """
for kind in (b'veth', b'dummy', b'bridge'):
    info = attribute(18, attribute(1, kind))  # IFLA_LINKINFO, IFLA_INFO_KIND
    done(lambda: change(16, 0x600, struct.pack('=BxHiII', 0, 0, 0, 0, 0) + info))"""
    assault.python(PRIVILEGES, NETLINK + script)


def test_no_route_can_be_added(assault: Assault) -> None:
    script = """
body = struct.pack('=8BI', 2, 32, 0, 0, 254, 4, 0, 7, 0) + attribute(1, socket.inet_aton('192.0.2.77'))
done(lambda: change(24, 0x600, body))"""
    assault.python(PRIVILEGES, NETLINK + script)


@pytest.mark.parametrize(
    ("name", "option"),
    [("its marks", "socket.SOL_SOCKET, 36"), ("foreign sources", "socket.IPPROTO_IP, 19")],
)
def test_no_packet_can_be_given_what_the_kernel_decides(assault: Assault, name: str, option: str) -> None:
    """SO_MARK and IP_TRANSPARENT."""
    del name
    assault.python(PRIVILEGES, f"done(lambda: socket.socket().setsockopt({option}, 1))")
