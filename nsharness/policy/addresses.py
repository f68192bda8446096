"""Which addresses may be connected to for a name that was resolved: unicast addresses of the public internet.

A name on the internet can resolve to anything, so what it resolves to is judged, not the name. The
sources are IANA's registries of special-purpose addresses (RFC 6890) and of IPv6 address space (RFC
4291): whatever is special there is refused, and so is every way to write such an IPv4 address inside
an IPv6 one. Whoever wants a private address reached maps a host to it in the profile.
"""

from __future__ import annotations

import ipaddress
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

_REMEMBERED = 1024
METADATA = frozenset(
    map(
        ipaddress.ip_address,
        (
            "169.254.169.254",  # most clouds
            "169.254.170.2",  # containers and pods at Amazon
            "169.254.170.23",
            "169.254.0.23",  # Tencent
            "fd00:ec2::254",  # Amazon, and its pods
            "fd00:ec2::23",
            "fd20:ce::254",  # Google
            "100.100.100.200",  # Alibaba
            "192.0.0.192",  # Oracle, earlier
            "168.63.129.16",  # Azure; a public address that only its machines have a route to
        ),
    )
)
"""Services that hand the credentials of a virtual machine to whoever asks."""

_V4 = tuple(
    (IPv4Network(network), reason)
    for network, reason in (
        ("0.0.0.0/32", "unspecified"),
        ("0.0.0.0/8", "reserved"),  # "this network": Linux takes 0.0.0.0 for loopback
        ("127.0.0.0/8", "loopback"),
        ("10.0.0.0/8", "private"),
        ("172.16.0.0/12", "private"),
        ("192.168.0.0/16", "private"),
        ("169.254.0.0/16", "link-local"),
        ("100.64.0.0/10", "shared by carrier-grade NAT"),  # RFC 6598
        ("192.0.0.0/24", "reserved"),  # protocol assignments
        ("192.0.2.0/24", "documentation"),
        ("198.51.100.0/24", "documentation"),
        ("203.0.113.0/24", "documentation"),
        ("192.88.99.0/24", "reserved"),  # relays for 6to4 (RFC 7526)
        ("198.18.0.0/15", "benchmarking"),  # our own synthetic addresses, too
        ("224.0.0.0/4", "multicast"),
        ("255.255.255.255/32", "broadcast"),
        ("240.0.0.0/4", "reserved"),
    )
)

_V6 = tuple(
    (IPv6Network(network), reason)
    for network, reason in (
        ("::/128", "unspecified"),
        ("::1/128", "loopback"),
        ("fe80::/10", "link-local"),
        ("fec0::/10", "private"),  # site-local, of old
        ("fc00::/7", "private"),
        ("ff00::/8", "multicast"),
        ("2001:db8::/32", "documentation"),
        ("3fff::/20", "documentation"),
        ("2001:2::/48", "benchmarking"),
        ("2001::/23", "reserved"),  # protocol assignments: Teredo, ORCHID, port control
    )
)
_GLOBAL = IPv6Network("2000::/3")
"""All that has been assigned for global unicast; what lies outside is special or nobody's."""

# Where an IPv4 address stands in an IPv6 one: the network, and the lowest of its bits.
_EMBEDDED = tuple(
    (IPv6Network(network), shift, what)
    for network, shift, what in (
        ("::ffff:0:0/96", 0, "IPv4-mapped"),  # RFC 4291
        ("::ffff:0:0:0/96", 0, "IPv4-translated"),  # RFC 2765
        ("::/96", 0, "IPv4-compatible"),  # RFC 4291, of old
        ("64:ff9b::/96", 0, "NAT64"),  # RFC 6052
        ("64:ff9b:1::/48", 0, "local NAT64"),  # RFC 8215
        ("2002::/16", 80, "6to4"),  # RFC 3056
        ("2001::/32", 0, "Teredo"),  # RFC 4380; inverted there
    )
)
# Interface identifiers of ISATAP (RFC 5214), in any network.
_ISATAP = frozenset({0x00005EFE, 0x02005EFE})


@lru_cache(maxsize=_REMEMBERED)
def connectable(address: str) -> str | None:
    """None for an address that may be connected to; else what it is, as a word or two for a message.

    Text that is no address is ``"no address"``. IPv6 zones are refused: they name an interface of ours.
    """
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return "no address"
    if isinstance(parsed, IPv4Address):
        return _of_v4(parsed)
    if parsed.scope_id is not None:
        return "link-local"
    return _of_v6(parsed)


def _of_v4(address: IPv4Address) -> str | None:
    if address in METADATA:
        return "metadata service"
    return next((reason for network, reason in _V4 if address in network), None)


def _of_v6(address: IPv6Address) -> str | None:
    if address in METADATA:
        return "metadata service"
    # Before the forms that would contain them: ::/96 has both in it.
    for network, reason in _V6[:2]:
        if address in network:
            return reason
    for network, shift, what in _EMBEDDED:
        if address in network:
            return _of_embedded(address, shift, what)
    if (int(address) >> 32) & 0xFFFFFFFF in _ISATAP:
        return f"ISATAP form of {_of_v4(IPv4Address(int(address) & 0xFFFFFFFF)) or 'an IPv4 address'}"
    special = next((reason for network, reason in _V6 if address in network), None)
    return special or (None if address in _GLOBAL else "reserved")


def _of_embedded(address: IPv6Address, shift: int, what: str) -> str | None:
    """What stands for an IPv4 address is refused as that, or because it should be written as that."""
    number = (int(address) >> shift) & 0xFFFFFFFF
    if what == "Teredo":
        number ^= 0xFFFFFFFF
    reason = _of_v4(IPv4Address(number))
    # On a network without IPv4 every IPv4 address is reached so, and nobody else chooses where it leads.
    if reason is None and what == "NAT64":
        return None
    return f"{what} form of {reason or 'an IPv4 address'}"
