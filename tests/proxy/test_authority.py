"""One authority: whatever a request says about its destination must agree with where it leads.

In every one of these a recording host, the one that the request would have reached, gets nothing.
"""

from __future__ import annotations

import pytest

from tests.proxy.rig import Proxy, Sandbox, policy, read_answer, read_to_end, rule
from tests.proxy.upstreams import Upstream


@pytest.fixture
def wiki(proxy: Proxy, sandbox: Sandbox, upstream: Upstream) -> Sandbox:
    """wiki.local has the credential; open.local is allowed and leads to a host that records everything."""
    rules = policy(
        rule("wiki", "wiki.local", headers=["Authorization"]),
        rule("open", "open.local", "198.51.100.7", ports=[80, 8080]),
        upstreams={
            "wiki.local:80": upstream.port,
            "open.local:80": upstream.port,
            "open.local:8080": upstream.port,
        },
    )
    proxy.attach(sandbox, rules)
    return sandbox


def test_a_spoofed_host_header_buys_no_credential(
    wiki: Sandbox, proxy: Proxy, upstream: Upstream, token: str
) -> None:
    """K1. In tests/contract the same request robs a naive engine."""
    answer = wiki.get("http://open.local/", host="wiki.local")
    assert (answer.status, answer.reason) == (421, "misdirected-request")
    assert not upstream.accepted
    assert token.encode() not in upstream.received
    assert proxy.audit("deny", sandbox=wiki.id)["reason"] == "misdirected-request"


@pytest.mark.parametrize(
    ("uri", "host"),
    [
        ("http://open.local/", "wiki.local"),
        ("http://wiki.local/", "open.local"),
        ("http://wiki.local/", "wiki.local:8080"),
        ("http://open.local:8080/", "open.local"),
        ("http://open.local/", "open.local.evil.example"),
        ("http://open.local/", "198.51.100.7"),
        ("https://open.local/", "open.local"),
    ],
)
def test_uri_and_host_header_agree_on_host_port_and_scheme(
    wiki: Sandbox, upstream: Upstream, uri: str, host: str
) -> None:
    """K2"""
    answer = wiki.get(uri, host=host)
    assert (answer.status, answer.reason) == (421, "misdirected-request")
    assert not upstream.accepted


@pytest.mark.parametrize(
    ("uri", "host"),
    [
        ("http://OPEN.local/", "open.LOCAL"),
        ("http://open.local./", "open.local"),
        ("http://open.local:80/", "open.local"),
        ("http://open.local/", "open.local:80"),
    ],
)
def test_other_spellings_of_the_same_authority_agree_and_go_on_as_one(
    wiki: Sandbox, upstream: Upstream, uri: str, host: str
) -> None:
    assert wiki.get(uri, host=host).status == 200
    assert upstream.requests[0].all("Host") == ["open.local"]


@pytest.mark.parametrize(
    "lines",
    [
        [],
        ["Host: open.local", "Host: open.local"],
        ["Host: open.local", "Host: wiki.local"],
        ["Host: open.local", "host: wiki.local"],
        ["Host: user@open.local"],
        ["Host: open.local, wiki.local"],
        ["Host: "],
        ["Host: open.local:"],
        ["Host: open.local:80:80"],
        ["Host: open.local\tx"],
        ["Host: open.local\x00.wiki.local"],
        ["Host: xn--ls8h.local\xe9"],
        ["Host: 0x7f.1"],
        ["Host: 2130706433"],
    ],
)
def test_there_is_exactly_one_host_header_with_one_reading(
    wiki: Sandbox, upstream: Upstream, lines: list[str]
) -> None:
    """K2, K4"""
    raw = "\r\n".join(["GET http://open.local/ HTTP/1.1", *lines, "", ""])
    answer = wiki.exchange(raw.encode("latin-1"))
    assert (answer.status, answer.reason) == (400, "malformed-request")
    assert not upstream.accepted


@pytest.mark.parametrize(
    "uri",
    [
        "http://wiki.local@open.local/",
        "http://wiki.local:80@open.local/",
        "http://open.local:99999/",
        "http://open.local:0/",
        "http:///",
        "http://open.local\\@wiki.local/",
        "http://127.1/",
        "http://0x7f000001/",
        "http://[::ffff:127.0.0.1]/",
        "ftp://open.local/",
        "//open.local/",
    ],
)
def test_an_authority_with_two_readings_is_refused(wiki: Sandbox, upstream: Upstream, uri: str) -> None:
    """K4"""
    answer = wiki.get(uri, host="open.local")
    assert answer.status == 400
    assert answer.reason == "malformed-request"
    assert not upstream.accepted


@pytest.mark.parametrize("target", ["/", "*", "open.local", "/http://open.local/"])
def test_the_explicit_proxy_takes_no_request_that_names_no_host_in_its_uri(
    wiki: Sandbox, upstream: Upstream, target: str
) -> None:
    """The engine would take the Host header for the destination here."""
    answer = wiki.exchange(f"GET {target} HTTP/1.1\r\nHost: open.local\r\n\r\n".encode())
    assert (answer.status, answer.reason) == (400, "malformed-request")
    assert not upstream.accepted


def test_each_request_of_a_connection_is_decided_by_itself(
    wiki: Sandbox, upstream: Upstream, token: str
) -> None:
    """K2, K8"""
    with wiki.connect() as client:
        for uri, host, status in (
            ("wiki.local", "wiki.local", 200),
            ("open.local", "open.local", 200),
            ("open.local", "wiki.local", 421),
        ):
            client.sendall(f"GET http://{uri}/ HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
            assert read_answer(client).status == status
    assert [bool(request.all("Authorization")) for request in upstream.requests] == [True, False]


def test_a_malformed_request_ends_the_connection(wiki: Sandbox) -> None:
    with wiki.connect() as client:
        client.sendall(b"GET http://open.local/ HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n")
        client.sendall(b"GET http://open.local/ HTTP/1.1\r\nHost: open.local\r\n\r\n")
        assert read_to_end(client).count(b"HTTP/1.1 ") == 1
