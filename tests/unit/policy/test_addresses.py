"""Only unicast addresses of the public internet are connected to."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsharness.policy.addresses import METADATA, connectable


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("0.0.0.0", "unspecified"),
        ("0.1.2.3", "reserved"),
        ("127.0.0.1", "loopback"),
        ("127.255.255.254", "loopback"),
        ("10.0.0.1", "private"),
        ("172.16.0.1", "private"),
        ("172.31.255.255", "private"),
        ("192.168.1.1", "private"),
        ("169.254.1.1", "link-local"),
        ("169.254.169.254", "metadata service"),
        ("169.254.170.2", "metadata service"),
        ("168.63.129.16", "metadata service"),
        ("100.100.100.200", "metadata service"),
        ("100.64.0.1", "shared by carrier-grade NAT"),
        ("100.127.255.255", "shared by carrier-grade NAT"),
        ("192.0.0.8", "reserved"),
        ("192.0.2.7", "documentation"),
        ("198.51.100.7", "documentation"),
        ("203.0.113.7", "documentation"),
        ("192.88.99.1", "reserved"),
        ("198.18.0.1", "benchmarking"),
        ("198.19.255.255", "benchmarking"),
        ("224.0.0.1", "multicast"),
        ("239.255.255.250", "multicast"),
        ("240.0.0.1", "reserved"),
        ("255.255.255.255", "broadcast"),
        ("::", "unspecified"),
        ("::1", "loopback"),
        ("fe80::1", "link-local"),
        ("fe80::1%eth0", "link-local"),
        ("2606:2800:21f::1%eth0", "link-local"),
        ("fec0::1", "private"),
        ("fc00::1", "private"),
        ("fd00::1", "private"),
        ("fd00:ec2::254", "metadata service"),
        ("fd20:ce::254", "metadata service"),
        ("ff02::1", "multicast"),
        ("2001:db8::1", "documentation"),
        ("3fff::1", "documentation"),
        ("2001:2::1", "benchmarking"),
        ("2001:10::1", "reserved"),
        ("100::1", "reserved"),
        ("5f00::1", "reserved"),
        ("4000::1", "reserved"),
        ("::ffff:127.0.0.1", "IPv4-mapped form of loopback"),
        ("::ffff:169.254.169.254", "IPv4-mapped form of metadata service"),
        ("::ffff:93.184.216.34", "IPv4-mapped form of an IPv4 address"),
        ("::ffff:0:10.0.0.1", "IPv4-translated form of private"),
        ("::10.0.0.1", "IPv4-compatible form of private"),
        ("64:ff9b::7f00:1", "NAT64 form of loopback"),
        ("64:ff9b::a9fe:a9fe", "NAT64 form of metadata service"),
        ("64:ff9b:1::a00:1", "local NAT64 form of private"),
        ("64:ff9b:1::5db8:d822", "local NAT64 form of an IPv4 address"),
        ("2002:7f00:1::", "6to4 form of loopback"),
        ("2002:5db8:d822::1", "6to4 form of an IPv4 address"),
        ("2001:0:4136:e378:8000:63bf:3fff:fdd2", "Teredo form of documentation"),
        ("2606:2800:21f::5efe:a00:1", "ISATAP form of private"),
        ("2606:2800:21f:0:200:5efe:5db8:d822", "ISATAP form of an IPv4 address"),
        ("", "no address"),
        ("wiki.local", "no address"),
        ("127.1", "no address"),
        ("0x7f000001", "no address"),
        ("2130706433", "no address"),
        ("[::1]", "no address"),
    ],
)
def test_what_is_special_is_refused_by_its_name(address: str, reason: str) -> None:
    """K9, K28."""
    assert connectable(address) == reason


@pytest.mark.parametrize(
    "address",
    [
        "93.184.216.34",
        "1.1.1.1",
        "100.63.255.255",
        "100.128.0.0",
        "172.15.255.255",
        "172.32.0.0",
        "198.17.255.255",
        "198.20.0.0",
        "223.255.255.255",
        "9.255.255.255",
        "11.0.0.0",
        "2606:2800:21f::1",
        "2001:4860:4860::8888",
        "2a00:1450::1",
        "64:ff9b::5db8:d822",
    ],
)
def test_public_addresses_are_connected_to(address: str) -> None:
    assert connectable(address) is None


IPV4_METADATA = [address for address in METADATA if isinstance(address, ipaddress.IPv4Address)]


def _v4() -> st.SearchStrategy[ipaddress.IPv4Address]:
    return st.integers(0, 2**32 - 1).map(ipaddress.IPv4Address) | st.sampled_from(sorted(IPV4_METADATA))


@given(st.ip_addresses())
def test_whatever_is_connected_to_is_global_unicast(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> None:
    """Against the registry that the standard library has."""
    embedded = address in ipaddress.ip_network("64:ff9b::/96") if address.version == 6 else False
    if connectable(str(address)) is None and not embedded:
        assert address.is_global
        assert not address.is_multicast
        assert not address.is_reserved


@given(_v4())
def test_almost_every_global_ipv4_address_is_connected_to(address: ipaddress.IPv4Address) -> None:
    relays = ipaddress.ip_network("192.88.99.0/24")
    special = ipaddress.ip_network("192.0.0.0/24")
    expected = (
        address.is_global
        and not address.is_multicast
        and address not in METADATA
        and address not in relays
        and address not in special
    )
    assert (connectable(str(address)) is None) == expected


@given(_v4())
def test_an_ipv4_address_is_judged_alike_in_every_form(address: ipaddress.IPv4Address) -> None:
    number = int(address)
    plain = connectable(str(address))
    nat64 = ipaddress.IPv6Address((0x64FF9B << 96) | number)
    assert (connectable(str(nat64)) is None) == (plain is None)
    for form in (
        (0xFFFF << 32) | number,
        (0xFFFF << 48) | number,
        (0x64FF9B0001 << 80) | number,
        (0x2002 << 112) | (number << 80),
        (0x20010000 << 96) | (number ^ 0xFFFFFFFF),
    ):
        judged = connectable(str(ipaddress.IPv6Address(form)))
        assert judged is not None
        assert judged.endswith(plain or "an IPv4 address")


@given(st.text(max_size=40))
def test_any_text_gets_an_answer(text: str) -> None:
    assert connectable(text) is None or connectable(text)
