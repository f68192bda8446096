"""The network that a workload has: five listeners, and for everything else a refusal at once.

Every test also with a cleared environment (K11): what holds must hold for a client that ignores all advice.
"""

from __future__ import annotations

import errno
import re
import secrets
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from nsharness.supervisor.session import Session
from tests.support.sandboxes import Box, Gateway, needs_sandbox, opened_box
from tests.support.waiting import DEADLINE, readable

pytestmark = needs_sandbox

AT_ONCE = 1.0
"""Seconds; ten times what is promised."""

ADDRESSES = (
    "10.127.0.1",
    "1.1.1.1",
    "169.254.169.254",
    "192.168.0.1",
    "198.18.0.5",
    "172.17.0.1",
    "9.255.255.255",
)
CLOSED_PORTS = (1, 22, 25, 52, 54, 79, 81, 442, 444, 2375, 3127, 3129, 5432, 8080, 65535)

# Prints a line for every way to every place: what happened, and after how many microseconds.
PROBE = r"""
ask() { # tcp|udp ADDRESS PORT
  exec {fd}<>"/dev/$1/$2/$3" || return
  [ "$1" = tcp ] || { printf x >&"$fd" && IFS= read -r -t 5 -n 1 -u "$fd"; }
}
for place; do
  IFS=, read -r kind address port <<< "$place"
  begun=${EPOCHREALTIME/[.,]/}
  text=$(ask "$kind" "$address" "$port" 2>&1) && text=answered
  printf '%s|%s|%s\n' "$place" "$((${EPOCHREALTIME/[.,]/} - begun))" "${text##*: }"
done
"""


def probe(box: Box, places: list[tuple[str, str, int]], *, cleared: bool) -> dict[str, str]:
    """How each attempt ended; every single one at once."""
    words = [f"{kind},{address},{port}" for kind, address, port in places]
    lines = box.out(PROBE, *words, cleared=cleared).splitlines()
    outcomes = {}
    for line in lines:
        place, microseconds, text = line.split("|")
        assert int(microseconds) < AT_ONCE * 1e6, line
        outcomes[place] = text
    assert len(outcomes) == len(places)
    return outcomes


@pytest.fixture(autouse=True)
def nothing_more_reaches_the_gateway(gateway_probe: Gateway) -> None:
    """No test may leave a connection at a listener that it did not expect there."""


# --- refused at once ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["tcp", "udp"])
def test_every_other_port_of_every_address_is_refused_at_once(box: Box, kind: str, cleared: bool) -> None:
    outcomes = probe(
        box, [(kind, address, port) for address in ADDRESSES for port in CLOSED_PORTS], cleared=cleared
    )
    assert set(outcomes.values()) == {"Connection refused"}, outcomes


def test_a_burst_of_udp_is_answered_in_full(box: Box, cleared: bool) -> None:
    """The kernel limits how many errors it sends, to one address and in all: senders would wait in vain."""
    script = r"""
    begun=${EPOCHREALTIME/[.,]/}
    for i in {1..300}; do exec {fd}<>/dev/udp/203.0.113.7/$((9000 + i)); fds+=("$fd"); done
    for fd in "${fds[@]}"; do printf x >&"$fd"; done
    for fd in "${fds[@]}"; do
      IFS= read -r -t 5 -n 1 -u "$fd" 2>/tmp/err; echo "$?"
    done | sort | uniq -c
    echo $((${EPOCHREALTIME/[.,]/} - begun))
    rm /tmp/err
    """
    counts, microseconds = box.out(script, cleared=cleared).splitlines()
    # 1 is an error; without an answer it would be more than 128.
    assert counts.split() == ["300", "1"]
    assert int(microseconds) < 3 * AT_ONCE * 1e6


IPV6 = (
    "2606:4700:4700::1111",
    "fd00::1",
    "fe80::1%eth0",
    "64:ff9b::101:101",
    "2001:db8::1",
    "fec0::1",
    "::2",
)
IPV6_MULTICAST = ("ff02::1%eth0", "ff0e::1")


@pytest.mark.parametrize("kind", ["tcp", "udp"])
def test_ipv6_is_unreachable_at_once(box: Box, kind: str, cleared: bool) -> None:
    places = [(kind, address, port) for address in IPV6 + IPV6_MULTICAST for port in (80, 443, 3128, 53, 22)]
    outcomes = probe(box, places, cleared=cleared)
    # The second where the kernel has no IPv6 at all.
    assert set(outcomes.values()) in (
        {"Network is unreachable"},
        {"Address family not supported by protocol"},
    ), outcomes


def test_multicast_and_reserved_addresses_are_refused_at_once(box: Box, cleared: bool) -> None:
    addresses = ("224.0.0.1", "239.255.255.250", "240.0.0.1", "255.255.255.254", "255.255.255.255")
    places = [
        (kind, address, port) for kind in ("tcp", "udp") for address in addresses for port in (53, 80, 5353)
    ]
    outcomes = probe(box, places, cleared=cleared)
    assert set(outcomes.values()) == {"No route to host"}, outcomes


@pytest.mark.parametrize("address", ["10.127.0.0", "10.127.0.3"])
def test_the_pairs_own_odd_addresses_do_not_hang(box: Box, address: str, cleared: bool) -> None:
    outcomes = probe(
        box, [(kind, address, port) for kind in ("tcp", "udp") for port in (80, 7)], cleared=cleared
    )
    assert "answered" not in outcomes.values()


def test_loopback_is_the_sandboxes_own(box: Box, cleared: bool) -> None:
    own = ("127.0.0.1", "127.255.255.254", "::1", "0.0.0.0", "::", "10.127.0.2")
    places = [("tcp", address, port) for address in own for port in (80, 443, 3128, 53)]
    assert set(probe(box, places, cleared=cleared).values()) == {"Connection refused"}


# --- what is there ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("port", [80, 443, 3128, 53])
def test_the_listeners_see_which_address_was_meant(
    box: Box, gateway_probe: Gateway, port: int, cleared: bool
) -> None:
    for address in ADDRESSES:
        box.out(f"exec 3<>/dev/tcp/{address}/{port}; printf hello >&3", cleared=cleared)
        assert gateway_probe.accept(port) == ((address, port), b"hello")


def test_an_ipv4_address_in_ipv6_form_is_that_ipv4_address(
    box: Box, gateway_probe: Gateway, cleared: bool
) -> None:
    box.out("exec 3<>/dev/tcp/::ffff:203.0.113.9/80; printf x >&3", cleared=cleared)
    assert gateway_probe.accept(80)[0] == ("203.0.113.9", 80)


@pytest.mark.parametrize("resolver", ["10.127.0.1", "8.8.8.8", "192.168.1.1"])
def test_a_name_query_to_any_resolver_arrives_here(
    box: Box, gateway_probe: Gateway, resolver: str, cleared: bool
) -> None:
    """K10."""
    box.out(f"exec 3<>/dev/udp/{resolver}/53; printf query >&3", cleared=cleared)
    data, ancillary, _, sender = gateway_probe.dns.recvmsg(100, socket.CMSG_SPACE(12))
    assert data == b"query"
    assert sender[0] == "10.127.0.2"
    ((level, kind, info),) = ancillary
    assert (level, kind) == (socket.IPPROTO_IP, socket.IP_PKTINFO)
    assert socket.inet_ntoa(info[8:12]) == resolver


def test_connections_wait_until_somebody_serves_them(box: Box, gateway_probe: Gateway) -> None:
    """A proxy that is being started again, say."""
    box.out("for i in {1..50}; do exec {fd}<>/dev/tcp/10.127.0.1/3128; printf %s, $i >&$fd; done")
    assert [gateway_probe.accept(3128)[1] for _ in range(50)] == [b"%d," % i for i in range(1, 51)]


def test_accepted_connections_do_not_wait_for_more_to_send(box: Box, gateway_probe: Gateway) -> None:
    """Without TCP_NODELAY a streaming answer takes 44 ms a piece."""
    box.out("exec 3<>/dev/tcp/10.127.0.1/80")
    connection, _ = gateway_probe.tcp(80).accept()
    with connection:
        assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert gateway_probe.tcp(80).proto == socket.IPPROTO_TCP


def test_there_is_one_interface_besides_loopback(box: Box) -> None:
    lines = box.out("cat /proc/net/dev").splitlines()[2:]
    assert sorted(line.partition(":")[0].strip() for line in lines) == ["eth0", "lo"]


def test_there_is_one_way_and_it_leads_to_the_gateway(box: Box) -> None:
    rows = [line.split()[:4] for line in box.out("cat /proc/net/route").splitlines()[1:]]
    usable = [
        (device, destination, gateway)
        for device, destination, gateway, flags in rows
        if not int(flags, 16) & 0x200
    ]
    assert sorted(usable) == [("eth0", "00000000", "01007F0A"), ("eth0", "00007F0A", "00000000")]


def test_no_ipv6_address_but_that_of_loopback(box: Box) -> None:
    assert {line.split()[-1] for line in box.out("cat /proc/net/if_inet6 || true").splitlines()} <= {"lo"}


# --- others are out of reach --------------------------------------------------------------------------------


@pytest.fixture
def host_service() -> Iterator[socket.socket]:
    """A service of the host on all its addresses."""
    with socket.create_server(("0.0.0.0", 0)) as listener:
        yield listener


def host_addresses() -> list[str]:
    local = Path("/proc/net/fib_trie").read_text()
    return sorted(set(re.findall(r"\|-- (\S+)\s+/32 host LOCAL", local)) | {"127.0.0.1"})


def test_services_of_the_host_are_out_of_reach(box: Box, host_service: socket.socket, cleared: bool) -> None:
    port = host_service.getsockname()[1]
    socket.create_connection(("127.0.0.1", port), DEADLINE).close()
    host_service.accept()[0].close()
    outcomes = probe(box, [("tcp", address, port) for address in host_addresses()], cleared=cleared)
    assert set(outcomes.values()) == {"Connection refused"}
    assert not readable(host_service.fileno(), 0)


def test_datagram_services_of_the_host_are_out_of_reach(box: Box, cleared: bool) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as service:
        service.bind(("0.0.0.0", 0))
        port = service.getsockname()[1]
        outcomes = probe(box, [("udp", address, port) for address in host_addresses()], cleared=cleared)
        assert set(outcomes.values()) == {"Connection refused"}
        assert not readable(service.fileno(), 0)


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_SEQPACKET])
def test_abstract_sockets_of_the_host_are_out_of_reach(
    box: Box, python: str, kind: socket.SocketKind, cleared: bool
) -> None:
    """K13: they have no path that a mount could hide; only the network namespace keeps them apart."""
    name = f"nsharness-test-{secrets.token_hex(8)}"
    with socket.socket(socket.AF_UNIX, kind) as service, socket.socket(socket.AF_UNIX, kind) as own:
        service.bind("\0" + name)
        if kind != socket.SOCK_DGRAM:
            service.listen()
        own.connect("\0" + name)  # the way is there for whoever shares the namespace
        script = f"import socket; print(socket.socket(socket.AF_UNIX, {int(kind)}).connect_ex('\\0{name}'))"
        assert box.out('"$1" -I -c "$2"', python, script, cleared=cleared) == "111"
        assert name not in box.out("cat /proc/net/unix", cleared=cleared)
        assert name in Path("/proc/net/unix").read_text()


def test_two_sandboxes_do_not_reach_each_other(
    session: Session, box: Box, gateway_probe: Gateway, python: str, cleared: bool
) -> None:
    """Both have the same addresses; each finds only itself and its own gateway there."""
    server = (
        "import socket; s = socket.create_server(('0.0.0.0', 4444)); s.accept(); print('reached', flush=True)"
    )
    with opened_box(session) as other:
        other.shell.run(f'{python} -I -c "{server}" & until grep -q :115C /proc/net/tcp; do :; done')
        assert other.bash("exec 3<>/dev/tcp/10.127.0.2/4445").exit_code == 1
        outcomes = probe(
            box, [("tcp", address, 4444) for address in ("10.127.0.2", *ADDRESSES)], cleared=cleared
        )
        assert set(outcomes.values()) == {"Connection refused"}
        box.out("exec 3<>/dev/tcp/10.127.0.1/3128; printf mine >&3", cleared=cleared)
        assert gateway_probe.accept(3128)[1] == b"mine"
        assert other.gateway.nothing_came()
        assert other.shell.run("jobs -r").stdout.count("Running") == 1
        # Within its own sandbox the server can be reached: the test would notice.
        other.shell.run("exec 3<>/dev/tcp/10.127.0.2/4444; wait %1")
        assert other.shell.run("jobs -r").stdout == ""


# --- and it stays so ----------------------------------------------------------------------------------------


REFUSALS = {str(number) for number in (errno.EPERM, errno.EACCES, errno.EAFNOSUPPORT)}


@pytest.mark.parametrize(
    "attempt",
    [
        "socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)",
        "socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)",
        "socket.socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP)",
        "socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)",
        "socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 768)",  # EAFNOSUPPORT, by the filter
        "socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 768)",
        "socket.socket().setsockopt(socket.SOL_SOCKET, socket.SO_MARK, 1)",
        "socket.socket().setsockopt(socket.IPPROTO_IP, 19, 1)",  # IP_TRANSPARENT
    ],
)
def test_raw_and_privileged_sockets_are_refused(box: Box, python: str, attempt: str, cleared: bool) -> None:
    script = f"import socket\ntry: {attempt}\nexcept OSError as e: print(e.errno)"
    assert box.out('"$1" -I -c "$2"', python, script, cleared=cleared) in REFUSALS


# struct ifreq: name and a sockaddr, or flags.
@pytest.mark.parametrize(
    ("request_number", "payload"),
    [
        pytest.param(0x8914, "struct.pack('16sH14x', b'eth0', 0)", id="take the interface down"),
        pytest.param(
            0x8916, "struct.pack('16sHH4s8x', b'eth0', 2, 0, bytes([10, 127, 0, 1]))", id="change the address"
        ),
        pytest.param(0x8924, "struct.pack('16sH14x', b'eth0', 1)", id="change the hardware address"),
        pytest.param(0x8923, "struct.pack('16s16s', b'eth0', b'eth1')", id="rename it"),
        pytest.param(0x8955, "bytes(68)", id="change the neighbours"),
        pytest.param(0x890B, "bytes(120)", id="add a route"),
    ],
)
def test_the_network_cannot_be_changed(box: Box, python: str, request_number: int, payload: str) -> None:
    script = f"""if 1:
        import fcntl, socket, struct
        try: fcntl.ioctl(socket.socket(), {request_number}, {payload})
        except PermissionError: print('refused')"""
    assert box.out('"$1" -I -c "$2"', python, script) == "refused"


@pytest.mark.parametrize(
    "kind", ["RTM_NEWLINK", "RTM_NEWADDR", "RTM_DELADDR", "RTM_NEWROUTE", "RTM_DELROUTE"]
)
def test_netlink_accepts_no_change(box: Box, python: str, kind: str) -> None:
    number = {
        "RTM_NEWLINK": 16,
        "RTM_NEWADDR": 20,
        "RTM_DELADDR": 21,
        "RTM_NEWROUTE": 24,
        "RTM_DELROUTE": 25,
    }[kind]
    script = f"""if 1:
        import socket, struct
        link = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)
        link.send(struct.pack('=IHHII', 48, {number}, 5, 1, 0) + bytes(32))
        print(struct.unpack_from('=i', link.recv(4096), 16)[0])"""
    assert box.out('"$1" -I -c "$2"', python, script) == "-1"


@pytest.mark.parametrize(
    "file",
    [
        "ip_forward",
        "conf/all/accept_redirects",
        "conf/eth0/rp_filter",
        "icmp_ratelimit",
        "ip_local_port_range",
    ],
)
def test_network_settings_are_read_only(box: Box, file: str) -> None:
    done = box.bash(f"cd /proc/sys/net/ipv4 && test -e {file} || exit 0; echo 1 > {file}")
    assert (
        b"Read-only file system" in done.stderr or b"Permission denied" in done.stderr or not done.exit_code
    )
    assert done.exit_code or not Path("/proc/sys/net/ipv4", file).exists()


def test_no_other_network_namespace_can_be_made(box: Box) -> None:
    for options in ("-n", "-Urn", "-Ur"):
        assert box.bash(f"unshare {options} true").exit_code == 1


def test_ports_that_look_privileged_are_not_the_workloads(box: Box, python: str) -> None:
    script = """if 1:
        import socket
        try: socket.create_server(('127.0.0.1', 80))
        except PermissionError: print('refused')"""
    assert box.out('"$1" -I -c "$2"', python, script) == "refused"


@pytest.mark.slow
def test_the_time_for_everything_closed_is_short(box: Box) -> None:
    """What a scanner does: two thousand ports in the time that one silent one would take."""
    begun = time.monotonic()
    attempt = "(exec 3<>/dev/tcp/198.51.100.1/$port) 2>/dev/null && echo open $port"
    assert box.out(f"for port in {{30000..31999}}; do {attempt}; done; :") == ""
    assert time.monotonic() - begun < DEADLINE * 2
