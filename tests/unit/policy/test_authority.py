"""One authority per request: all names that are present agree, or there is none."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsharness.policy.authority import Authority, Claims, Refusal, authority

RIGHT, OTHER = "wiki.local", "attacker.example"
ISSUED = "198.18.0.1"

Choice = Literal["right", "other", "absent"]
CHOICES: tuple[Choice, ...] = ("right", "other", "absent")


def _name(choice: Choice) -> str | None:
    return {"right": RIGHT, "other": OTHER, "absent": None}[choice]


def _target(choice: Choice, port: int) -> str | None:
    name = _name(choice)
    return None if name is None else f"{name}:{port}"


@pytest.mark.parametrize("path", ["transparent", "connect", "forward"])
@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize("http2", [False, True])
def test_exactly_the_combinations_where_all_names_agree_have_an_authority(
    path: Literal["transparent", "connect", "forward"], tls: bool, http2: bool
) -> None:
    """K1, K2: every combination of right, other and absent names, on every path."""
    port = 443 if tls else 80
    agreed = 0
    for anchor, sni, pseudo, uri, *headers in itertools.product(CHOICES, repeat=6):
        present = [choice for choice in headers if choice != "absent"]
        claims = Claims(
            path=path,
            issued_name=_name(anchor) if path == "transparent" else None,
            dialled=(ISSUED, port) if path == "transparent" else None,
            connect_target=_target(anchor, port) if path == "connect" else None,
            absolute_uri_authority=_name(anchor if path == "forward" else uri),
            sni=_name(sni),
            authority_header=_name(pseudo) if http2 else None,
            host_headers=tuple(name for name in map(_name, headers) if name),
            tls=tls,
        )
        used = [anchor, *present, sni, *([pseudo] if http2 else []), *([uri] if path != "forward" else [])]
        named = {choice for choice in used if choice != "absent"}
        expected = (
            anchor != "absent"
            and len(named) == 1
            and (sni != "absent") == tls
            and len(present) <= 1
            and (len(present) == 1 or (http2 and pseudo != "absent"))
        )
        result = authority(claims)
        assert isinstance(result, Authority) == expected, claims
        if isinstance(result, Authority):
            agreed += 1
            assert result == Authority(_name(anchor) or "", port)
        else:
            assert result.status in (400, 421)
            assert result.reason
    assert agreed > 0


def _spellings(name: str) -> st.SearchStrategy[str]:
    return st.sampled_from([name, name.upper(), name + ".", name.title() + "."])


@given(
    st.sampled_from(["transparent", "connect", "forward"]),
    st.booleans(),
    st.integers(1, 65535),
    st.data(),
)
def test_spelling_and_the_default_port_make_no_difference(
    path: Literal["transparent", "connect", "forward"], tls: bool, port: int, data: st.DataObject
) -> None:
    default = 443 if tls else 80

    def named() -> str:
        name = data.draw(_spellings(RIGHT))
        return name if port == default and data.draw(st.booleans()) else f"{name}:{port}"

    claims = Claims(
        path=path,
        issued_name=data.draw(_spellings(RIGHT)) if path == "transparent" else None,
        dialled=(ISSUED, port) if path == "transparent" else None,
        connect_target=f"{data.draw(_spellings(RIGHT))}:{port}" if path == "connect" else None,
        absolute_uri_authority=named() if path == "forward" else None,
        sni=data.draw(_spellings(RIGHT)) if tls else None,
        host_headers=(named(),),
        tls=tls,
    )
    assert authority(claims) == Authority(RIGHT, port)
    wrong = port % 65535 + 1
    assert isinstance(authority(dataclasses.replace(claims, host_headers=(f"{RIGHT}:{wrong}",))), Refusal)


texts = st.one_of(
    st.none(),
    st.sampled_from(
        [RIGHT, RIGHT.upper(), OTHER, "192.0.2.7", "[2001:db8::7]", f"{RIGHT}:80", f"u@{RIGHT}", ""]
    ),
    st.text(max_size=12),
)


@given(
    st.builds(
        Claims,
        path=st.sampled_from(["transparent", "connect", "forward"]),
        issued_name=texts,
        dialled=st.one_of(
            st.none(),
            st.tuples(
                st.sampled_from([ISSUED, "192.0.2.7", "2001:db8::7", "x"]), st.sampled_from([0, 80, 443])
            ),
        ),
        connect_target=texts,
        absolute_uri_authority=texts,
        sni=texts,
        authority_header=texts,
        host_headers=st.lists(texts.filter(lambda text: text is not None), max_size=2).map(tuple),
        tls=st.booleans(),
        absolute_uri_scheme=st.sampled_from([None, "http", "https", "HTTP", "gopher"]),
    )
)
def test_whatever_is_claimed_there_is_an_answer_and_no_exception(claims: Claims) -> None:
    result = authority(claims)
    if isinstance(result, Authority):
        assert len(claims.host_headers) <= 1
        assert not any("@" in text for text in claims.host_headers)
        assert claims.tls or claims.sni is None


def _plain(**changes: Any) -> Claims:
    return dataclasses.replace(
        Claims("transparent", issued_name=RIGHT, dialled=(ISSUED, 80), host_headers=(RIGHT,)), **changes
    )


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"host_headers": ()}, 400),
        ({"host_headers": (RIGHT, RIGHT)}, 400),
        ({"host_headers": (RIGHT, OTHER)}, 400),
        ({"host_headers": (f"{RIGHT}, {OTHER}",)}, 400),
        ({"host_headers": (f"user@{RIGHT}",)}, 400),
        ({"host_headers": ("",)}, 400),
        ({"host_headers": (f"{RIGHT}:",)}, 400),
        ({"host_headers": (f"{RIGHT}\0",)}, 400),
        ({"host_headers": (OTHER,)}, 421),
        ({"host_headers": (f"{RIGHT}.{OTHER}",)}, 421),
        ({"host_headers": (f"evil-{RIGHT}",)}, 421),
        ({"host_headers": (f"{RIGHT}:8080",)}, 421),
        ({"host_headers": (f"{RIGHT}:443",)}, 421),
        ({"host_headers": (ISSUED,)}, 421),
        ({"absolute_uri_authority": OTHER}, 421),
        ({"absolute_uri_authority": f"user:pw@{RIGHT}"}, 400),
        ({"sni": RIGHT}, 400),
        ({"tls": True, "dialled": (ISSUED, 443)}, 421),
        ({"tls": True, "dialled": (ISSUED, 443), "sni": OTHER}, 421),
        ({"tls": True, "dialled": (ISSUED, 443), "sni": f"{RIGHT}:443"}, 400),
        ({"issued_name": None}, 421),
        ({"issued_name": None, "dialled": ("192.0.2.7", 80)}, 421),
        ({"issued_name": OTHER}, 421),
        ({"dialled": None}, 400),
        ({"dialled": (ISSUED, 0)}, 400),
        ({"dialled": ("wiki.local", 80)}, 400),
        ({"connect_target": f"{RIGHT}:80"}, 400),
        ({"absolute_uri_authority": RIGHT, "absolute_uri_scheme": "https"}, 421),
    ],
)
def test_refusals_and_their_status(changes: dict[str, Any], status: int) -> None:
    """K1, K2, K4: the Host header alone selects nothing."""
    result = authority(_plain(**changes))
    assert isinstance(result, Refusal)
    assert result.status == status
    assert "pw" not in result.reason


def test_an_ip_literal_needs_no_sni() -> None:
    claims = Claims("connect", connect_target="192.0.2.7:443", host_headers=("192.0.2.7",), tls=True)
    assert authority(claims) == Authority("192.0.2.7", 443)
    six = Claims("connect", connect_target="[2001:DB8:0::7]:443", host_headers=("[2001:db8::7]",), tls=True)
    assert authority(six) == Authority("2001:db8::7", 443)
    dialled = Claims("transparent", dialled=("192.0.2.7", 443), host_headers=("192.0.2.7",), tls=True)
    assert authority(dialled) == Authority("192.0.2.7", 443)


def test_an_ip_that_was_dialled_cannot_borrow_a_name_by_sni() -> None:
    """K2: the SNI spoofed at a hard-coded address."""
    claims = Claims("transparent", dialled=("192.0.2.7", 443), sni=RIGHT, host_headers=(RIGHT,), tls=True)
    assert isinstance(authority(claims), Refusal)


def test_an_address_that_was_issued_for_no_name_is_no_host_of_its_own() -> None:
    """K2: it would be allowed by whatever rule names the address, and lead nowhere that was checked."""
    claims = Claims("transparent", dialled=("198.19.255.254", 80), host_headers=("198.19.255.254",))
    result = authority(claims)
    assert isinstance(result, Refusal)
    assert result.status == 421


def test_a_connect_target_needs_its_port() -> None:
    result = authority(Claims("connect", connect_target=RIGHT, host_headers=(RIGHT,)))
    assert isinstance(result, Refusal)
    assert result.status == 400


def test_http2_needs_authority_or_host_and_both_agree() -> None:
    base = Claims("connect", connect_target=f"{RIGHT}:443", sni=RIGHT, tls=True)
    assert isinstance(authority(base), Refusal)
    assert authority(dataclasses.replace(base, authority_header=RIGHT)) == Authority(RIGHT, 443)
    both = dataclasses.replace(base, authority_header=RIGHT, host_headers=(OTHER,))
    assert isinstance(authority(both), Refusal)
