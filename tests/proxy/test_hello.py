"""The first message of a TLS client: read like by the parser that mitmproxy has, or refused."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mitmproxy.proxy.layers.tls import get_client_hello
from mitmproxy.tls import ClientHello

from nsharness_proxy.hello import MAX_HELLO, Hello, HelloError, client_hello, starts_tls
from tests.proxy.test_tunnel import hello, names, raw_hello


def protocols(*each: bytes) -> tuple[int, bytes]:
    listed = b"".join(bytes([len(name)]) + name for name in each)
    return 16, struct.pack("!H", len(listed)) + listed


def test_what_it_names_and_offers() -> None:
    data = raw_hello(names(b"Open.local"), protocols(b"h2", b"http/1.1"))
    assert client_hello(data) == Hello("Open.local", (b"h2", b"http/1.1"))
    assert client_hello(data + b"more") == client_hello(data)
    assert client_hello(raw_hello()) == Hello(None, ())
    assert client_hello(raw_hello(names(b"a.local", b"b.local"))) == Hello(None, ())
    assert starts_tls(data)
    assert not starts_tls(b"\x16\x04\x01")
    assert not starts_tls(b"GET")


@given(end=st.integers(0, 600), name=st.sampled_from(["a.local", None]))
def test_a_part_is_awaited(end: int, name: str | None) -> None:
    data = hello(name)
    whole = client_hello(data)
    assert whole is not None
    assert client_hello(data[:end]) == (whole if end >= len(data) else None)


def theirs(data: bytes) -> Hello | None:
    try:
        message = get_client_hello(data)
        if message is None:
            return None
        parsed = ClientHello(message[4:])
        return Hello(parsed.sni, tuple(parsed.alpn_protocols))
    except (ValueError, EOFError, struct.error):
        return Hello("unreadable", ())


@given(place=st.integers(0, 80), byte=st.integers(0, 255))
def test_a_name_that_is_taken_is_the_one_that_another_reader_finds(place: int, byte: int) -> None:
    """One byte of it is another one."""
    data = bytearray(raw_hello(names(b"open.local"), protocols(b"h2", b"http/1.1")))
    data[place % len(data)] = byte
    try:
        ours = client_hello(bytes(data))
    except HelloError:
        return
    if ours is not None:
        other = theirs(bytes(data))
        assert other is not None
        # It takes no name that is no host; we take none out of lengths that do not add up.
        assert ours.sni in (None, other.sni) or other.sni in (None, "unreadable")


@pytest.mark.parametrize(
    "data",
    [
        raw_hello(protocols(b"h2"), protocols(b"http/1.1")),
        raw_hello((16, b"\0\4\2h2")),
        b"\x16\x03\x01\x40\x00\x01\xff\xff\xff" + bytes(MAX_HELLO),
        b"\x16\x03\x01\x00\x00",
        b"\x16\x02\x01\x00\x05",
        b"\x17\x03\x01\x00\x05",
    ],
)
def test_what_is_no_such_message_is_refused(data: bytes) -> None:
    with pytest.raises(HelloError, match="not-tls"):
        client_hello(data)
