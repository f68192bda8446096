"""Which parts of a header value are hidden, and in which forms."""

from __future__ import annotations

import base64

import pytest

from nsharness.credentials.scrub_forms import forms_of, spellings, values_of


def basic(pair: str) -> str:
    return "Basic " + base64.b64encode(pair.encode()).decode()


@pytest.mark.parametrize(
    ("value", "hidden"),
    [
        ("wiki_hunter2222", {"wiki_hunter2222"}),
        ("Bearer wiki_hunter2222", {"wiki_hunter2222"}),
        ("bearer  wiki_hunter2222", {"wiki_hunter2222"}),
        ("token hunter22222", {"hunter22222"}),
        # Not long enough alone, so with its scheme; too short even so: nothing.
        ("Bearer abc", {"Bearer abc"}),
        ("1", set()),
        # An unknown word may be a scheme, or the beginning of a passphrase.
        ("Magic abcdefghijk", {"Magic abcdefghijk", "abcdefghijk"}),
        ("correct horse battery", {"correct horse battery", "horse battery"}),
        ('Token token="abcdefghij", id=7', {'token="abcdefghij", id=7', "abcdefghij"}),
        ("session=abcdefghij; theme=dark", {"session=abcdefghij; theme=dark", "abcdefghij"}),
        (basic("user:hunter22222"), {basic("user:hunter22222")[6:], "user:hunter22222", "hunter22222"}),
        (basic("sk_live_abcdef:"), {basic("sk_live_abcdef:")[6:], "sk_live_abcdef:", "sk_live_abcdef"}),
        (
            basic("ghp_abcdefgh:x-oauth-basic"),
            {
                basic("ghp_abcdefgh:x-oauth-basic")[6:],
                "ghp_abcdefgh:x-oauth-basic",
                "ghp_abcdefgh",
                "x-oauth-basic",
            },
        ),
        ("Basic not/base64!", {"not/base64!"}),
        (basic("no colon here"), {basic("no colon here")[6:]}),
    ],
)
def test_the_parts_of_a_header_value_that_are_hidden(value: str, hidden: set[str]) -> None:
    assert set(values_of(value)) == hidden


@pytest.mark.parametrize("value", ["pässwörter", "a\nbcdefghij", "\x7fabcdefgh"])
def test_a_value_that_no_header_may_have_is_refused_without_being_quoted(value: str) -> None:
    with pytest.raises(ValueError, match="visible ASCII") as error:
        values_of(value)
    assert value not in str(error.value)


def test_a_public_beginning_is_known_in_every_form() -> None:
    forms = forms_of(["ghp_abcdefgh"])
    heads = [b"".join(unit[:1] for unit in form.units[: form.head]) for form in forms]
    assert heads[:2] == [b"ghp_", b"6768705F"]
    # ghp_ alone, after one byte, after two: only what no other byte can change.
    assert heads[2:] == [
        b"Z2hwX",
        b"dwXw"[:0] + base64.b64encode(b"\0ghp_")[2:6],
        base64.b64encode(b"\0\0ghp_")[3:8],
    ]


def test_without_a_public_beginning_nothing_is_public() -> None:
    assert {form.head for form in forms_of(["hunter2222222"])} == {0}


def test_forms_show_nothing() -> None:
    assert "hunter" not in repr(forms_of(["hunter2222222"]))


def test_spellings_cover_escapes_in_either_case() -> None:
    ways = spellings(b"/")
    assert {b"/", b"%2f", b"%2F", b"%252F", rb"\/", rb"\\/", rb"\u002f", rb"\u002F", rb"\\u002f"} <= set(ways)
    assert {rb"\x2f", b"&#47;", b"&#x2f;", b"&#X2F;", b"&#047;", b"&#x002F;"} <= set(ways)
    assert b"&amp;" in spellings(b"&")
    assert {b"+", b" ", b"%20", b"%2B"} <= set(spellings(b" +"))
