"""What of a client's header fields goes on to the host."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsharness.policy.decide import Allow
from nsharness.policy.headers import (
    Field,
    HeaderError,
    check,
    is_placeholder,
    is_websocket,
    outgoing,
    removed,
    values,
    with_host,
)
from nsharness.policy.hosts import HostPattern
from nsharness.policy.model import Rule

PATTERN = HostPattern.parse("wiki.local")


def _allow(*inject: str, credentialed: bool = True, **rule: Any) -> Allow:
    return Allow(Rule("r", (PATTERN,), inject, **rule), PATTERN, inject, credentialed)


OPEN = _allow(credentialed=False)
WIKI = _allow("Authorization")


def _fields(*pairs: str) -> list[Field]:
    split = (pair.partition(": ") for pair in pairs)
    return [(name.encode("latin-1"), value.encode("latin-1")) for name, _, value in split]


def _names(fields: list[Field]) -> list[str]:
    return [name.decode().lower() for name, _ in fields]


@pytest.mark.parametrize(
    "field",
    [
        "Connection: keep-alive",
        "Keep-Alive: timeout=5",
        "Proxy-Connection: keep-alive",
        "Proxy-Authorization: Basic eHg6eHg=",
        "Proxy-Anything: x",
        "Proxy_Authorization: x",
        "TE: trailers",
        "Trailer: X",
        "Upgrade: h2c",
        "HTTP2-Settings: AAMAAABk",
        "Expect: 200-maybe",
    ],
)
@pytest.mark.parametrize("allow", [OPEN, WIKI], ids=["open", "credentialed"])
def test_what_is_of_the_connection_or_for_proxies_stays_here(field: str, allow: Allow) -> None:
    """K5, K6."""
    kept = outgoing(_fields("Accept: */*", field), allow)
    assert [name for name in _names(kept) if name != "accept-encoding"] == ["accept"]


def test_what_the_connection_header_lists_is_removed_but_for_what_makes_the_request() -> None:
    fields = _fields(
        "Host: wiki.local",
        "Connection: close, X-One",
        "connection: x-two ,host,content-length",
        "X-One: 1",
        "X_Two: 2",
        "Content-Length: 3",
        "X-Three: 3",
    )
    assert _names(outgoing(fields, OPEN)) == ["host", "content-length", "x-three"]


@pytest.mark.parametrize("name", ["Authorization", "authorization", "AUTHORIZATION"])
@pytest.mark.parametrize("exclusive", [True, False])
def test_a_header_of_an_injected_name_is_removed_whatever_its_spelling(name: str, exclusive: bool) -> None:
    """K17."""
    for inject, sent in ((name, "authorization"), ("X-Api-Key", "x_api-KEY"), ("X_Api_Key", "X-Api-Key")):
        allow = _allow(inject, exclusive=exclusive)
        assert sent.lower() not in _names(outgoing(_fields(f"{sent}: mine", "Accept: */*"), allow))


CREDENTIALS = (
    "Authorization: Bearer mine",
    "Cookie: session=mine",
    "X-Api-Key: mine",
    "Api-Key: mine",
    "X-Goog-Api-Key: mine",
    "Private-Token: mine",
    "X-Auth-Token: mine",
    "X-Amz-Security-Token: mine",
    "x_api_key: mine",
)


@pytest.mark.parametrize("field", CREDENTIALS)
def test_on_a_credentialed_host_the_client_is_nobody_else(field: str) -> None:
    """K17."""
    name = field.partition(":")[0].lower()
    assert name not in _names(outgoing(_fields(field), _allow("X-Ours")))
    # By a rule without a credential of its own as well: the host has one by another.
    assert name not in _names(outgoing(_fields(field), _allow()))
    assert name in _names(outgoing(_fields(field), OPEN))
    assert name in _names(outgoing(_fields(field), _allow("X-Ours", exclusive=False)))
    assert (name in _names(outgoing(_fields(field), _allow("X-Ours", cookies=True)))) == (name == "cookie")


@pytest.mark.parametrize(
    "field",
    [
        "Range: bytes=0-9",
        "If-Range: x",
        "Accept-Encoding: br",
        "Sec-WebSocket-Extensions: permessage-deflate",
    ],
)
@pytest.mark.parametrize("exclusive", [True, False])
def test_from_a_credentialed_host_only_what_can_be_read_is_asked_for(field: str, exclusive: bool) -> None:
    """K15."""
    kept = outgoing(_fields(field), _allow("X-Ours", exclusive=exclusive))
    assert kept == [(b"Accept-Encoding", b"identity")]
    assert outgoing(_fields(field), OPEN) == _fields(field)


PLACEHOLDER = "sk-ant-api03-nsph0123"


@pytest.mark.parametrize(
    ("value", "stays"),
    [
        (PLACEHOLDER, True),
        (f"Bearer {PLACEHOLDER}", True),
        (f"token  {PLACEHOLDER}", True),
        ("Basic " + base64.b64encode(f"x-access-token:{PLACEHOLDER}".encode()).decode(), True),
        ("basic " + base64.b64encode(f"{PLACEHOLDER}:".encode()).decode().rstrip("="), True),
        ("Basic " + base64.b64encode(f"{PLACEHOLDER}:mine".encode()).decode(), False),
        ("Basic " + base64.b64encode(f"me:mine{PLACEHOLDER}".encode()).decode(), False),
        ("Basic " + PLACEHOLDER[:5], False),
        ("Basic x", False),
        (f"Bearer {PLACEHOLDER} mine", False),
        (f"Bearer mine {PLACEHOLDER}", False),
        (f"{PLACEHOLDER},mine", False),
        (f"{PLACEHOLDER}x", False),
        (PLACEHOLDER[:-1], False),
        ("", False),
    ],
)
def test_a_credential_stays_if_it_is_a_placeholder_and_nothing_else(value: str, stays: bool) -> None:
    """K17, K18."""
    assert is_placeholder(value.encode(), {PLACEHOLDER.encode()}) == stays
    for name in ("authorization", "x-api-key"):
        fields = _fields(f"{name}: {value}")
        allow = _allow()
        assert (name in _names(outgoing(fields, allow, placeholders=[PLACEHOLDER]))) == stays
        assert name not in _names(outgoing(fields, allow))
        assert name not in _names(outgoing(fields, _allow(name), placeholders=[PLACEHOLDER]))


@pytest.mark.parametrize(
    "field",
    [
        (b"X", b"a\r\n b"),
        (b"X", b"a\n\tb"),
        (b"X", b"a\rHost: x"),
        (b"X", b"a\0"),
        (b"X", b"\x7f"),
        (b" X", b"folded"),
        (b"\tX", b"folded"),
        (b"", b"x"),
        (b"X ", b"x"),
        (b"X:", b"x"),
        (b"\xc3\xa9", b"x"),
        (b":authority", b"x"),
        (b"Content-Length", b"-1"),
        (b"Content-Length", b"+1"),
        (b"Content-Length", b"1,1"),
        (b"Content-Length", b"0x1"),
        (b"Content-Length", b""),
        (b"Content_Length", b"1"),
        (b"Transfer-Encoding", b"gzip, chunked"),
        (b"Transfer-Encoding", b"xchunked"),
        (b"Transfer_Encoding", b"chunked"),
    ],
)
def test_a_field_with_two_readings_is_refused(field: Field) -> None:
    """K6."""
    for fields in ([field], [(b"Host", b"wiki.local"), field]):
        with pytest.raises(HeaderError):
            check(fields)
        with pytest.raises(HeaderError) as caught:
            outgoing(fields, OPEN)
        assert "folded" not in str(caught.value)


@pytest.mark.parametrize(
    "fields",
    [
        ("Content-Length: 1", "Content-Length: 1"),
        ("Content-Length: 1", "content-length: 2"),
        ("Content-Length: 1", "Transfer-Encoding: chunked"),
        ("Transfer-Encoding: chunked", "Transfer-Encoding: chunked"),
    ],
)
def test_a_body_has_one_length(fields: tuple[str, ...]) -> None:
    """K6."""
    with pytest.raises(HeaderError, match="several times"):
        check(_fields(*fields))
    for field in fields:
        check(_fields(field))


def test_values_may_have_tabs_and_bytes_beyond_ascii() -> None:
    fields = [(b"X", b"a\tb \xe9"), (b"Y", b""), (b"Transfer-Encoding", b" Chunked\t")]
    assert outgoing(fields, OPEN) == fields
    assert values(fields, b"x") == ("a\tb \udce9",)


WEBSOCKET = (
    "Host: wiki.local",
    "Connection: keep-alive, Upgrade",
    "Upgrade: WebSocket",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: x",
)


def test_a_websocket_is_the_one_upgrade_that_is_passed_on() -> None:
    """K5."""
    fields = _fields(*WEBSOCKET)
    assert is_websocket("GET", fields)
    kept = outgoing(fields, WIKI, websocket=True)
    assert kept[-2:] == [(b"Connection", b"Upgrade"), (b"Upgrade", b"websocket")]
    assert _names(kept).count("upgrade") == _names(kept).count("connection") == 1
    assert "upgrade" not in _names(outgoing(fields, WIKI))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("Upgrade: WebSocket", "Upgrade: h2c"),
        ("Upgrade: WebSocket", "Upgrade: websocket, h2c"),
        ("Upgrade: WebSocket", "X: y"),
        ("Connection: keep-alive, Upgrade", "Connection: keep-alive"),
        ("Sec-WebSocket-Version: 13", "Sec-WebSocket-Version: 8"),
        ("Sec-WebSocket-Key: x", "X: y"),
    ],
)
def test_any_other_upgrade_is_none(old: str, new: str) -> None:
    """K5."""
    assert not is_websocket("GET", _fields(*(new if field == old else field for field in WEBSOCKET)))
    assert not is_websocket("POST", _fields(*WEBSOCKET))
    assert not is_websocket("GET", _fields(*WEBSOCKET, "Upgrade: h2c"))
    assert not is_websocket("GET", _fields(*WEBSOCKET, "Sec-WebSocket-Key: y"))


def test_there_is_one_host_header_and_it_is_ours() -> None:
    fields = _fields("Accept: */*", "host: attacker.example", "HOST: x")
    assert with_host(fields, "wiki.local") == _fields("Host: wiki.local", "Accept: */*")


def test_what_was_removed_can_be_told_by_name() -> None:
    fields = _fields("Accept: */*", "Cookie: a", "COOKIE: b", "X_Api_Key: c")
    kept = outgoing(fields, WIKI)
    assert removed(fields, kept) == ("cookie", "x_api_key")
    assert b"a" not in dict(kept).values()


names = st.sampled_from(
    [
        "Authorization",
        "Cookie",
        "Accept",
        "X-Custom",
        "Connection",
        "Proxy-X",
        "X-Api-Key",
        "Range",
        "Upgrade",
        "Host",
    ]
).flatmap(lambda name: st.sampled_from([name, name.lower(), name.upper(), name.replace("-", "_")]))
lists = st.lists(
    st.tuples(names, st.sampled_from(["x", "X-Custom", "accept, upgrade", "close"])).map(
        lambda pair: (pair[0].encode(), pair[1].encode())
    ),
    max_size=8,
)


@given(lists, st.booleans(), st.booleans(), st.booleans())
def test_nothing_is_invented_reordered_or_brought_back(
    fields: list[Field], credentialed: bool, exclusive: bool, cookies: bool
) -> None:
    allow = _allow("X-Ours", credentialed=credentialed, exclusive=exclusive, cookies=cookies)
    kept = outgoing(fields, allow)
    if credentialed:
        assert kept.pop() == (b"Accept-Encoding", b"identity")
    remaining = iter(fields)
    assert all(field in remaining for field in kept)
    folded = {name.lower().replace(b"_", b"-") for name, _ in kept}
    assert not folded & {b"connection", b"proxy-x", b"upgrade"}
    if credentialed:
        assert b"range" not in folded
        assert not (exclusive and folded & {b"authorization", b"x-api-key"})
        assert not (exclusive and not cookies and b"cookie" in folded)
    # What is sent is a fixed point: another hop of the same kind would change nothing more.
    assert [f for f in outgoing(kept, allow) if f[0] != b"Accept-Encoding"] == kept


@given(st.lists(st.tuples(st.binary(max_size=6), st.binary(max_size=6)), max_size=4))
def test_what_passes_the_check_is_lines_that_read_back_the_same(fields: list[Field]) -> None:
    """K6."""
    try:
        check(fields)
    except HeaderError:
        return
    text = b"".join(name + b": " + value + b"\r\n" for name, value in fields)
    lines = text.split(b"\r\n")[:-1]
    assert [tuple(line.split(b": ", 1)) for line in lines] == fields
    assert b"\n" not in b"".join(lines)
    assert b"\r" not in b"".join(lines)
