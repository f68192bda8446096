"""Header fields between client and host: pure functions."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsharness_proxy import headers
from nsharness_proxy.headers import Field

NAMES = st.sampled_from(
    [
        b"Authorization",
        b"authorization",
        b"X-Api-Key",
        b"X_Api_Key",
        b"Connection",
        b"Host",
        b"Proxy-X",
        b"Accept",
    ]
)
FIELDS = st.lists(
    st.tuples(NAMES, st.sampled_from([b"a", b"Accept", b"close, Accept", b"Host", b""])), max_size=8
)


def names(fields: list[Field]) -> list[bytes]:
    return [name for name, _ in fields]


@pytest.mark.parametrize(
    "name",
    [b"X-Api-Key", b"x-api-key", b"X_API_KEY", b"X_Api-Key", b"Proxy-Authorization", b"proxy-connection"],
)
def test_nothing_goes_on_that_a_server_could_take_for_ours_or_a_proxy_for_its_own(name: bytes) -> None:
    """CGI and WSGI give X_Api_Key and X-Api-Key one name."""
    assert headers.outgoing([(name, b"mine")], ["X-Api-Key"], websocket=False) == []


def test_what_connection_lists_is_of_the_connection_but_not_what_makes_the_request() -> None:
    fields = [
        (b"Connection", b"close, X-Mine ,Content-Length"),
        (b"connection", b"HOST,transfer-encoding"),
        (b"X-Mine", b"1"),
        (b"Host", b"h"),
        (b"Content-Length", b"3"),
        (b"Transfer-Encoding", b"chunked"),
        (b"X-Other", b"2"),
    ]
    kept = names(headers.outgoing(fields, [], websocket=False))
    assert kept == [b"Host", b"Content-Length", b"Transfer-Encoding", b"X-Other"]


def test_only_one_expectation_is_known() -> None:
    """RFC 9110 section 10.1.1"""
    fields = [(b"Expect", b"100-Continue"), (b"Expect", b"magic")]
    assert headers.outgoing(fields, [], websocket=False) == fields[:1]


@given(FIELDS, st.lists(st.sampled_from(["Authorization", "X-Api-Key"]), max_size=2))
def test_what_goes_on_is_a_part_of_what_came_in_its_order(fields: list[Field], injected: list[str]) -> None:
    kept = headers.outgoing(fields, injected, websocket=False)
    rest = iter(fields)
    assert all(field in rest for field in kept)
    ours = {name.lower().encode() for name in injected}
    assert not {name.lower().replace(b"_", b"-") for name in names(kept)} & ours
    assert headers.outgoing(kept, injected, websocket=False) == kept


@given(FIELDS)
def test_there_is_one_host_header_and_it_is_first(fields: list[Field]) -> None:
    made = headers.with_host(fields, "wiki.local:8080")
    assert made[0] == (b"Host", b"wiki.local:8080")
    assert headers.values(made, b"host") == ("wiki.local:8080",)


UPGRADE: list[Field] = [
    (b"Upgrade", b"WebSocket"),
    (b"Connection", b"keep-alive, Upgrade"),
    (b"Sec-WebSocket-Key", b"dGhlIHNhbXBsZSBub25jZQ=="),
    (b"Sec-WebSocket-Version", b"13"),
]


def test_a_websocket_upgrade_goes_on_as_one() -> None:
    assert headers.is_websocket("GET", UPGRADE)
    kept = headers.outgoing(UPGRADE, [], websocket=True)
    assert headers.is_websocket("GET", kept)
    assert headers.values(kept, b"connection") == ("Upgrade",)


@pytest.mark.parametrize("left_out", range(4))
def test_every_part_of_an_upgrade_is_needed(left_out: int) -> None:
    """RFC 6455 section 4.1"""
    part = [field for index, field in enumerate(UPGRADE) if index != left_out]
    assert not headers.is_websocket("GET", part)
    assert not headers.is_websocket("POST", UPGRADE)
    assert not headers.is_websocket("GET", [*UPGRADE, (b"Upgrade", b"h2c")])
    assert not headers.is_websocket("GET", [(b"Upgrade", b"websocket, h2c"), *UPGRADE[1:]])
