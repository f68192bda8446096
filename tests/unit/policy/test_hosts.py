"""One canonical form for hosts, and patterns that compare whole labels."""

from __future__ import annotations

import ipaddress
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsharness.policy.hosts import (
    HostError,
    HostPattern,
    canonical_host,
    is_ip,
    join_authority,
    split_authority,
)

_LDH = string.ascii_lowercase + string.digits + "-_"
labels = st.text(_LDH, min_size=1, max_size=12).filter(
    lambda text: text.strip("-") == text and not text.startswith("xn--")
)
names = (
    st.lists(labels, min_size=1, max_size=4)
    .map(".".join)
    .filter(
        lambda name: not name.rpartition(".")[2].isdigit() and not name.rpartition(".")[2].startswith("0x")
    )
)
addresses = st.ip_addresses().filter(lambda address: getattr(address, "ipv4_mapped", None) is None).map(str)
hosts = st.one_of(names, addresses.map(lambda text: ipaddress.ip_address(text).compressed))


@given(st.one_of(st.text(max_size=40), names, addresses, st.text("aA.*:[]0x-ßü%", max_size=20)))
def test_the_canonical_form_is_a_fixed_point_in_lower_case_ascii(text: str) -> None:
    try:
        host = canonical_host(text)
    except HostError:
        return
    assert canonical_host(host) == host
    assert host.isascii()
    assert host == host.lower()
    assert not host.endswith(".")
    assert not set(host) & set(" \t\r\n\0@/\\%[]")


@given(names)
def test_case_and_one_dot_at_the_end_do_not_matter(name: str) -> None:
    assert canonical_host(name) == canonical_host(name.upper() + ".") == name


@given(st.ip_addresses(v=4))
def test_ipv4_is_a_dotted_quad_and_nothing_else(address: ipaddress.IPv4Address) -> None:
    """K4: octal, decimal, hexadecimal and short forms reach other hosts with other readers."""
    assert canonical_host(str(address)) == str(address)
    for text in (str(int(address)), hex(int(address)), "0" + str(address), "0x7f.1"):
        with pytest.raises(HostError):
            canonical_host(text)


@given(st.ip_addresses(v=6))
def test_every_spelling_of_an_ipv6_address_is_one_host(address: ipaddress.IPv6Address) -> None:
    if address.ipv4_mapped is not None:
        with pytest.raises(HostError):
            canonical_host(str(address))
        return
    for text in (address.compressed, address.exploded.upper(), f"[{address.exploded}]"):
        assert canonical_host(text) == address.compressed
    assert is_ip(address.compressed)


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        "..",
        "wiki..local",
        ".wiki.local",
        "wiki.local..",
        "wiki.local\0",
        "wiki.local\0.attacker.example",
        "wiki.local ",
        " wiki.local",
        "wiki\tlocal",
        "wiki.local\r\n",
        "user@wiki.local",
        "wiki.local@attacker.example",
        "wiki.local/",
        "wiki.local\\",
        "wiki%2elocal",
        "wiki.local:80",
        "-wiki.local",
        "wiki-.local",
        "a" * 64 + ".local",
        ".".join(["a" * 50] * 6),
        "a" * 100_000,
        "127.1",
        "0177.0.0.1",
        "0x7f.0.0.1",
        "2130706433",
        "1.2.3.4.5",
        "256.1.1.1",
        "wiki.local.1",
        "wiki.0x10",
        "[::1",
        "::1]",
        "[127.0.0.1]",
        "[wiki.local]",
        "fe80::1%eth0",
        "::ffff:127.0.0.1",
        "[::ffff:7f00:1]",
        "faß.example",  # two IDNA versions, two hosts
        "ｗｉｋｉ.local",
        "wi\u00adki.local",  # soft hyphen
        "wi\u200dki.local",  # zero-width joiner
        "wiki。local",  # an ideographic full stop is a dot to some
        "a\u2488b.local",  # a character that decomposes into "1."
        "xn--wiki-.local",  # decodes to plain ASCII
        "xn--.local",
        "xn--99999999999.local",
        "\udcff.local",
    ],
)
def test_a_host_that_another_reader_could_take_differently_is_refused(text: str) -> None:
    """K4: NUL bytes, user information, odd IPs, IDNA and dots have each been a way round a check."""
    with pytest.raises(HostError):
        canonical_host(text)


def test_a_message_says_what_is_wrong() -> None:
    for text, says in (
        ("wiki..local", "empty label"),
        ("wiki.local.1", "dotted-quad"),
        ("fe80::1%eth0", "zone"),
        ("faß.example", "xn--"),
        ("a b", "white space"),
    ):
        with pytest.raises(HostError, match=says):
            canonical_host(text)


def test_a_name_beyond_ascii_becomes_its_a_label() -> None:
    assert canonical_host("MÜNCHEN.example.") == "xn--mnchen-3ya.example"
    assert canonical_host("xn--mnchen-3ya.example") == "xn--mnchen-3ya.example"
    assert canonical_host("xn--fa-hia.example") == "xn--fa-hia.example"


def test_a_message_never_quotes_what_stands_before_an_at_sign() -> None:
    with pytest.raises(HostError) as caught:
        canonical_host("user:hunter2222@wiki.local")
    assert "hunter2222" not in str(caught.value)


@given(hosts, hosts)
def test_an_exact_pattern_matches_its_host_alone(pattern: str, host: str) -> None:
    parsed = HostPattern.parse(pattern)
    assert parsed.matches(pattern)
    assert parsed.matches(host) == (host == pattern)


@given(names.filter(lambda name: "." in name), hosts, st.lists(labels, max_size=3))
def test_a_wildcard_matches_subdomains_and_never_the_base(base: str, host: str, below: list[str]) -> None:
    pattern = HostPattern.parse(f"*.{base}")
    assert pattern.matches(".".join([*below, base])) == bool(below)
    assert not pattern.matches("evil" + base)
    ends = host.split(".")[-len(base.split(".")) :] == base.split(".")
    assert pattern.matches(host) == (ends and host != base)


@pytest.mark.parametrize(
    "host",
    ["evil-wiki.local", "wiki.local.attacker.example", "wiki.localx", "xwiki.local", "a.wiki.local", "local"],
)
def test_names_that_look_alike_do_not_match(host: str) -> None:
    """K4: prefix and suffix comparison of strings matched these."""
    assert not HostPattern.parse("wiki.local").matches(canonical_host(host))


@given(hosts)
def test_the_text_of_a_pattern_is_its_canonical_form(host: str) -> None:
    for pattern in (HostPattern.parse(host), HostPattern("sub.example.com", subdomains=True)):
        assert HostPattern.parse(str(pattern)) == pattern


@pytest.mark.parametrize("text", ["*", "*.com", "*.local", "*.COM."])
def test_an_over_broad_pattern_needs_allow_any(text: str) -> None:
    with pytest.raises(HostError, match="over-broad"):
        HostPattern.parse(text)
    assert HostPattern.parse(text, allow_any=True).matches("x.com") == (text != "*.local")


def test_the_pattern_for_any_host_matches_names_and_addresses() -> None:
    anything = HostPattern.parse("*", allow_any=True)
    assert all(anything.matches(host) for host in ("wiki.local", "192.0.2.7", "2001:db8::7"))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("http://wiki.local", "scheme"),
        ("wiki.local/a", "path"),
        ("wiki.local:80", "port"),
        ("[::1]:80", "port"),
        (".wiki.local", r"\*\.wiki\.local"),
        ("a.*.local", "first label"),
        ("*wiki.local", "subdomains"),
        ("**.wiki.local", "subdomains"),
        ("*.10.0.0.1", "IP"),
        ("*.*.local", "not a valid host name"),
        ("*.", "empty"),
        ("", "empty"),
    ],
)
def test_a_pattern_that_is_none_says_what_to_write_instead(text: str, says: str) -> None:
    with pytest.raises(HostError, match=says):
        HostPattern.parse(text)


@given(hosts, st.integers(1, 65535))
def test_an_authority_comes_apart_as_it_was_put_together(host: str, port: int) -> None:
    assert split_authority(join_authority(host, port)) == (host, port)
    bare = f"[{host}]" if ":" in host else host
    assert split_authority(bare) == (host, None)


@pytest.mark.parametrize(
    "text",
    [
        "wiki.local:",
        "wiki.local:0",
        "wiki.local:080",
        "wiki.local:65536",
        "wiki.local:+80",
        "wiki.local:80:80",
        "wiki.local:８０",
        "user@wiki.local:80",
        "::1",
        "::1:80",
        "[::1",
        "[::1]80",
        "[::1]]:80",
        ":80",
        "",
        "wiki.local:80\r\n",
    ],
)
def test_an_authority_with_two_readings_is_refused(text: str) -> None:
    with pytest.raises(HostError):
        split_authority(text)
