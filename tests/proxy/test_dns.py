"""The stub resolver: what it answers, to whom, and that nothing can make it fail or ask anybody."""

from __future__ import annotations

import json
import os
import random
import socket
import struct

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from mitmproxy.dns import DNSMessage

from nsharness.linux import fds
from nsharness.policy.names import MAX_NAMES
from nsharness_proxy import dns
from tests.proxy import dnsclient as d
from tests.proxy.rig import DEADLINE, Proxy, Sandbox, policy, rule
from tests.support import dns_fuzz
from tests.support.waiting import eventually

ADDRESS = "198.18.0.1"


def resolve(name: str) -> str | None:
    return ADDRESS if name.lower() == "wiki.local" else None


def answered(query: bytes) -> d.Reply:
    raw = dns.answer(query, resolve)
    assert raw is not None
    return d.parse(raw)


def test_an_allowed_name_has_one_address() -> None:
    reply = answered(d.query("wiki.local"))
    assert (reply.address, reply.id) == (ADDRESS, 4711)
    # Answer, authoritative, recursion desired and available: what a client of a resolver expects.
    assert reply.flags == 0x8580


@pytest.mark.parametrize("kind", [d.AAAA, d.HTTPS, d.TXT, 64, d.ANY, 12, 33, 65535])
def test_every_other_type_of_an_allowed_name_is_empty(kind: int) -> None:
    reply = answered(d.query("wiki.local", kind))
    assert (reply.code, reply.counts) == (d.NOERROR, (1, 0, 1, 0))


@pytest.mark.parametrize("kind", [d.A, d.AAAA, d.HTTPS, d.TXT])
@pytest.mark.parametrize(
    "name", ["evil.local", "x.wiki.local", "wiki.local.evil.example", "local", "1.2.3.4", ""]
)
def test_every_other_name_does_not_exist(name: str, kind: int) -> None:
    """K10"""
    reply = answered(d.query(name, kind))
    assert (reply.code, reply.counts) == (d.NXDOMAIN, (1, 0, 1, 0))


def test_an_empty_answer_may_not_be_remembered() -> None:
    """RFC 2308 section 5: for as long as the SOA record says, which is no time."""
    reply = answered(d.query("evil.local"))
    owner, kind, _, ttl, length = struct.unpack("!BHHIH", reply.raw[-33:-22])
    assert (owner, kind, ttl, length) == (0, d.SOA, 0, 22)
    assert reply.raw[-4:] == bytes(4)


def test_the_question_comes_back_as_it_was_asked() -> None:
    """Clients vary the case and compare."""
    query = d.query("wIkI.LoCaL")
    reply = answered(query)
    assert reply.raw[12:].startswith(query[12:])
    assert reply.address == ADDRESS


def test_edns_is_answered_with_edns() -> None:
    """RFC 6891"""
    reply = answered(d.query("wiki.local", edns=True))
    assert (reply.address, reply.counts) == (ADDRESS, (1, 1, 0, 1))
    version_1 = bytearray(d.query("wiki.local", edns=True))
    version_1[-5] = 1
    newer = answered(bytes(version_1))
    # BADVERS is 16, of which the OPT record has the upper bits.
    assert (newer.code, newer.counts, newer.raw[-6:-2]) == (d.NOERROR, (1, 0, 0, 1), b"\1\0\0\0")


@pytest.mark.parametrize(
    ("query", "code"),
    [
        (d.query("wiki.local", flags=0x2900), d.NOTIMP),
        (d.query("wiki.local")[:-2] + b"\0\3", d.REFUSED),
        (d.query("wiki.local")[:-1], d.FORMERR),
        (d.query("wiki.local") + b"x", d.FORMERR),
        (struct.pack("!6H", 1, 0x100, 0, 0, 0, 0), d.FORMERR),
        (struct.pack("!6H", 1, 0x100, 2, 0, 0, 0) + 2 * d.query("wiki.local")[12:], d.FORMERR),
        (struct.pack("!6H", 1, 0x100, 65535, 65535, 65535, 65535), d.FORMERR),
        # Labels: with a dot inside, pointing to itself, of 64 bytes, beyond ASCII, a fake A-label.
        (struct.pack("!6H", 1, 0x100, 1, 0, 0, 0) + b"\x0awiki.local\0\0\1\0\1", d.FORMERR),
        (struct.pack("!6H", 1, 0x100, 1, 0, 0, 0) + b"\xc0\x0c\0\1\0\1", d.FORMERR),
        (struct.pack("!6H", 1, 0x100, 1, 0, 0, 0) + b"\x40" + 64 * b"a" + b"\0\0\1\0\1", d.FORMERR),
        (d.query("w\xefki.local"), d.FORMERR),
        (d.query("xn--\xff.local"), d.FORMERR),
        (b"\0\1\1\0" + bytes(dns.MAX_QUERY), d.FORMERR),
    ],
)
def test_what_cannot_be_read_in_one_way_is_an_error(query: bytes, code: int) -> None:
    """K4: a label with a dot in it is not two labels."""
    reply = answered(query)
    assert (reply.code, reply.counts[1]) == (code, 0)
    assert reply.raw[:2] == query[:2]


@pytest.mark.parametrize("data", [b"", b"\0", d.query("wiki.local", flags=0x8100), bytes(11)])
def test_what_is_no_query_gets_no_answer(data: bytes) -> None:
    """An answer to an answer could go on for ever."""
    assert dns.answer(data, resolve) is None


def test_a_chain_of_pointers_does_not_exhaust_the_stack() -> None:
    chain = b"".join(struct.pack("!H", 0xC000 | (14 + 2 * n)) for n in range(2000))
    assert answered(struct.pack("!6H", 1, 0x100, 1, 0, 0, 0) + chain + b"\0\0\1\0\1").code == d.FORMERR


@given(st.binary(max_size=600))
@example(d.query("wiki.local"))
def test_no_bytes_make_it_fail_or_answer_with_more_than_it_was_asked(data: bytes) -> None:
    reply = dns.answer(data, resolve)
    assert reply is None or (len(reply) >= 12 and reply[:2] == data[:2] and reply[2] & 0x80)


@given(st.integers(min_value=0, max_value=40), st.binary(min_size=1, max_size=4))
def test_no_damage_to_a_query_makes_it_fail(position: int, damage: bytes) -> None:
    query = bytearray(d.query("wiki.local", edns=True))
    query[position : position + len(damage)] = damage
    reply = dns.answer(bytes(query), resolve)
    if reply is not None and d.parse(reply).counts[1]:
        assert d.parse(reply).address == ADDRESS


@pytest.mark.parametrize("labels", [[b"a" * 63] * 3 + [b"a" * 61], [b"a" * 63] * 4])
def test_a_name_has_at_most_255_bytes(labels: list[bytes]) -> None:
    """RFC 1035 section 3.1"""
    name = b"".join(bytes([len(label)]) + label for label in labels) + b"\0"
    reply = answered(struct.pack("!6H", 1, 0x100, 1, 0, 0, 0) + name + b"\0\1\0\1")
    assert reply.code == (d.NXDOMAIN if len(name) <= 255 else d.FORMERR)


def test_records_that_a_query_may_carry_are_skipped_and_two_of_edns_are_an_error() -> None:
    query = bytearray(d.query("wiki.local", edns=True))
    signature = b"\3key\0" + struct.pack("!HHIH", 250, 255, 0, 3) + b"abc"
    assert answered(bytes(query[:11]) + b"\2" + bytes(query[12:]) + signature).address == ADDRESS
    assert answered(bytes(query[:11]) + b"\2" + bytes(query[12:]) + bytes(query[-11:])).code == d.FORMERR
    assert answered(bytes(query[:11]) + b"\2" + bytes(query[12:]) + signature[:-1]).code == d.FORMERR


@given(st.integers(min_value=0, max_value=1 << 62))
def test_a_second_reader_reads_the_same_question_and_every_answer(seed: int) -> None:
    """mitmproxy's, which decodes A-labels."""
    query = dns_fuzz.random_query(random.Random(seed))
    asked: list[str] = []

    def known(name: str) -> str | None:
        asked.append(name)
        return resolve(name)

    raw = dns.answer(query, known)
    if raw is None or not asked or "xn--" in asked[0].lower():
        return
    reply = DNSMessage.unpack(raw)
    assert [question.name for question in reply.questions] == asked
    assert [question.name for question in DNSMessage.unpack(query).questions] == asked
    assert all(record.name == asked[0] for record in reply.answers)


# Over sockets


@pytest.fixture
def attached(proxy: Proxy, sandbox: Sandbox) -> Sandbox:
    proxy.attach(
        sandbox, policy(rule("wiki", "wiki.local"), rule("any", "*.example.com"), rule("ip", "192.0.2.1"))
    )
    return sandbox


@pytest.fixture
def client() -> socket.socket:
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    made.settimeout(DEADLINE)
    return made


@pytest.mark.parametrize("server", ["127.0.0.1", "127.0.0.53", "127.1.2.3"])
def test_the_answer_comes_from_the_address_that_was_asked(
    attached: Sandbox, client: socket.socket, server: str
) -> None:
    with client:
        reply = d.ask(client, (server, attached.address("dns-udp")[1]), "wiki.local")
    assert reply.address == ADDRESS


def test_names_get_addresses_of_their_own_and_keep_them(
    attached: Sandbox, client: socket.socket, proxy: Proxy
) -> None:
    server = attached.address("dns-udp")
    with client:
        names = ["wiki.local", "a.example.com", "b.example.com", "a.example.com", "wiki.local"]
        addresses = [d.ask(client, server, name, edns=True).address for name in names]
    assert addresses[0] == addresses[4]
    assert addresses[1] == addresses[3]
    assert len(set(addresses)) == 3
    # What a later proxy needs to go on with the same addresses.
    expected = ["wiki.local", "a.example.com", "b.example.com"]
    eventually(lambda: proxy.names(attached.id) == expected)


def test_as_many_names_as_there_may_be_outlive_a_proxy_however_long_they_are(
    sandbox: Sandbox, client: socket.socket, proxy: Proxy
) -> None:
    """All of them are more than one message. Under ``ask`` the workload chooses every name."""
    asks = policy(rule("wiki", "wiki.local"), unknown="ask")
    proxy.attach(sandbox, asks)
    server = sandbox.address("dns-udp")
    long = ".".join(letter * 60 for letter in "abc")
    names = [f"{long}.n{number}.example" for number in range(MAX_NAMES - 1)]
    with client:
        addresses = [d.ask(client, server, name).address for name in names]
        assert len(set(addresses)) == len(names)
        assert d.ask(client, server, "one.too.many.example").code == d.NXDOMAIN
        eventually(lambda: proxy.names(sandbox.id) == ["wiki.local", *names])
        proxy.send({"op": "detach", "sandbox": sandbox.id})
        proxy.event("detached", sandbox=sandbox.id)
        proxy.events.clear()
        table = fds.memfd("names", json.dumps({"names": ["wiki.local", *names]}).encode())
        proxy.attach(sandbox, asks, table, names=True)
        os.close(table)
        assert d.ask(client, server, names[-1]).address == addresses[-1]


def test_a_denied_name_is_recorded(attached: Sandbox, client: socket.socket, proxy: Proxy) -> None:
    with client:
        assert d.ask(client, attached.address("dns-udp"), "secrets.evil.example").code == d.NXDOMAIN
    event = proxy.audit("deny", sandbox=attached.id, road="dns")
    assert (event["host"], event["reason"]) == ("secrets.evil.example", "host-not-allowed")


@pytest.mark.parametrize("name", ["192.0.2.1", "1.2.0.192.in-addr.arpa", "example.com"])
def test_addresses_and_apexes_have_no_address(attached: Sandbox, client: socket.socket, name: str) -> None:
    with client:
        assert d.ask(client, attached.address("dns-udp"), name).code == d.NXDOMAIN


def test_tcp_takes_several_queries_on_a_connection_in_any_pieces(attached: Sandbox) -> None:
    """RFC 7766"""
    queries = b"".join(
        struct.pack("!H", len(q)) + q
        for q in (d.query("wiki.local"), d.query("evil.local"), d.query("wiki.local"))
    )
    with attached.connect("dns-tcp") as connection, connection.makefile("rb") as replies:
        for piece in (queries[:1], queries[1:9], queries[9:]):
            connection.sendall(piece)
        codes = []
        for _ in range(3):
            (length,) = struct.unpack("!H", replies.read(2))
            codes.append(d.parse(replies.read(length)).code)
    assert codes == [d.NOERROR, d.NXDOMAIN, d.NOERROR]


@pytest.mark.parametrize(
    "data", [b"\xff\xff" + bytes(100), b"\0\0", b"\0\x0c" + bytes([0, 1, 0x80]) + bytes(9)]
)
def test_tcp_closes_on_what_is_no_query(attached: Sandbox, data: bytes) -> None:
    with attached.connect("dns-tcp") as connection:
        connection.sendall(data)
        assert connection.recv(100) == b""


def test_a_flood_of_garbage_does_not_silence_it(attached: Sandbox, client: socket.socket) -> None:
    server = attached.address("dns-udp")
    with client:
        for number in range(2000):
            client.sendto(struct.pack("!H", number) + b"\x81", server)
        assert d.ask(client, server, "wiki.local").address == ADDRESS


def test_a_thousand_names_are_all_there_is(proxy: Proxy, attached: Sandbox, client: socket.socket) -> None:
    server = attached.address("dns-udp")
    with client:
        codes = [d.ask(client, server, f"n{number}.example.com").code for number in range(1000)]
    assert codes == 999 * [d.NOERROR] + [d.NXDOMAIN]
    assert proxy.audit("deny", sandbox=attached.id)["reason"] == "too-many-names"
