"""Whatever the encoding and wherever the cut: a secret never comes out, and everything else does."""

from __future__ import annotations

import base64
import copy
import html
import json
import pickle
import random
import re
import urllib.parse
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from nsharness.credentials.scrub import Scrubber, Stream
from nsharness.credentials.secret import Secret
from tests.support import scrub_reference as reference

pytestmark = pytest.mark.usefixtures("search")

TOKEN = "wiki_9aK/dLm28fj+QwXz7PbRt0YuVs3HcGn"
SCRUBBER = Scrubber([Secret("Bearer " + TOKEN)])
HEADLESS = Scrubber([Secret("hunter2hunter3")])

seeds = st.integers(min_value=0, max_value=1 << 62)


def through(stream: Stream, *pieces: bytes) -> bytes:
    return b"".join(map(stream.feed, pieces)) + stream.finish()


def encoded(token: str) -> dict[str, bytes]:
    """Forms made by the standard library, not by the code under test."""
    raw = token.encode()
    return {
        "literal": raw,
        "quoted": urllib.parse.quote(raw, safe="").encode(),
        "quoted in lower case": urllib.parse.quote(raw, safe="").lower().encode().replace(b"9ak", b"9aK"),
        "every byte quoted": "".join(f"%{b:02X}" for b in raw).encode(),
        "quoted twice": urllib.parse.quote(urllib.parse.quote(raw, safe=""), safe="").encode(),
        "quoted thrice": urllib.parse.quote(
            urllib.parse.quote(urllib.parse.quote(raw, safe=""), safe=""), safe=""
        ).encode(),
        "entities with zeros": token.replace("/", "&#x002f;").replace("+", "&#0043;").encode(),
        "json": json.dumps(token).strip('"').encode(),
        "json with slashes escaped": token.replace("/", "\\/").encode(),
        "json in json in json": json.dumps(json.dumps(token.replace("/", "\\u002F"))).encode(),
        "json, all escaped": "".join(f"\\u{b:04X}" for b in raw).encode(),
        "html": html.escape(token.replace("+", "&plus;")).replace("&amp;plus;", "&#43;").encode(),
        "hex": raw.hex().encode(),
        "HEX": raw.hex().upper().encode(),
        "quoted base64": urllib.parse.quote(base64.b64encode(raw), safe="").encode(),
        **{
            f"{name} after {n}": coded(b"u" * n + raw)
            for name, coded in {"base64": base64.b64encode, "url base64": base64.urlsafe_b64encode}.items()
            for n in range(4)
        },
        **{f"base64 before {n}": base64.b64encode(raw + b"z" * n) for n in range(4)},
        "a Basic pair": base64.b64encode(b"x-access-token:" + raw),
    }


# A few characters at the ends may share bits with their neighbours.
@pytest.mark.parametrize("form", [name for name in encoded(TOKEN) if name != "quoted in lower case"])
def test_a_form_made_by_the_standard_library_is_found_at_every_cut(form: str) -> None:
    """K15."""
    body = b'{"echo": "<' + (data := encoded(TOKEN)[form]) + b'>"}\n'
    whole = SCRUBBER.text(body)
    assert len(whole) == len(body)
    begin, end = body.index(data), body.index(data) + len(data)
    assert whole[:begin] == body[:begin]
    assert whole[end:] == body[end:]
    stars = whole.count(b"*")
    exact = "base64" not in form and "Basic" not in form and form != "json in json in json"
    assert stars == len(data) if exact else stars * 4 > len(data) * 2
    for cut in range(len(body) + 1):
        assert through(SCRUBBER.stream(), body[:cut], body[cut:]) == whole


@pytest.mark.parametrize("before", range(4))
@pytest.mark.parametrize("after", range(4))
def test_of_base64_at_most_edge_bits_remain(before: int, after: int) -> None:
    out = SCRUBBER.text(base64.b64encode(b"A" * before + TOKEN.encode() + b"B" * after))
    rest = out.rstrip(b"=").split(b"*")
    # What is not determined by the secret alone: whole neighbours, and one shared character at an end.
    assert len(rest[0]) == -(-8 * before // 6)
    assert len(rest[-1]) <= -(-8 * after // 6) + 1
    assert not any(rest[1:-1])


def test_mixed_case_hex_and_both_base64_alphabets_at_once() -> None:
    digits = "".join(c.upper() if i % 3 else c for i, c in enumerate(TOKEN.encode().hex()))
    assert set(SCRUBBER.text(digits)) == {"*"}
    secret = "\x7e?~?~>~>~?~?"[1:] + "aaaa"
    coded = bytearray(base64.b64encode(secret.encode()))
    for i, byte in enumerate(coded):
        if i % 2 and byte in b"+/":
            coded[i] = {43: 45, 47: 95}[byte]
    assert b"*" * 18 in Scrubber([Secret(secret)]).text(bytes(coded))


@given(seeds)
def test_any_body_in_any_pieces_comes_out_as_the_reference_says(seed: int) -> None:
    """K15. The fuzzer (scripts/fuzz) does the same for as long as one likes."""
    rng = random.Random(seed)
    secrets = reference.random_secrets(rng)
    scrubber = Scrubber(map(Secret, secrets))
    body = reference.random_body(rng, secrets)
    expected = reference.scrubbed(body, secrets)
    assert scrubber.text(body) == expected
    stream = scrubber.stream()
    assert through(stream, *reference.pieces(rng, body)) == expected
    assert stream.found == scrubber.finds(body) == (expected != body)


@given(st.binary(max_size=300), st.lists(st.integers(0, 300), max_size=6))
def test_a_body_without_a_secret_is_not_touched(body: bytes, cuts: list[int]) -> None:
    borders = [0, *sorted(min(cut, len(body)) for cut in cuts), len(body)]
    parts = [body[a:b] for a, b in pairwise(borders)]
    stream = SCRUBBER.stream()
    assert through(stream, *parts) == body
    assert (stream.found, stream.count) == (False, 0)


@given(seeds, st.sampled_from(sorted(reference.ENCODERS)), st.integers(0, 200))
@example(0, "literal", 0)
def test_decoding_what_comes_out_does_not_give_the_secret(seed: int, how: str, size: int) -> None:
    rng = random.Random(seed)
    body = (
        rng.randbytes(size) + b" " + reference.ENCODERS[how](rng, TOKEN.encode()) + b" " + rng.randbytes(size)
    )
    out = through(SCRUBBER.stream(), *reference.pieces(rng, body))
    assert len(out) == len(body)
    for text in (out, html.unescape(out.decode("latin-1")).encode("latin-1", "replace")):
        assert TOKEN.encode() not in urllib.parse.unquote_to_bytes(text)
    assert TOKEN.encode().hex() not in out.lower().decode("latin-1")
    assert SCRUBBER.finds(body)
    assert not SCRUBBER.finds(out)


@pytest.mark.parametrize(
    ("secrets", "body", "out"),
    [
        (
            ["abcdefgh", "abcdefghijkl"],
            b"abcdefgh abcdefghijkl abcdefghij",
            b"******** ************ ********ij",
        ),
        (["cdefghij", "abcdefghijkl"], b"abcdefghijkX", b"ab********kX"),
        (["abcdefgh", "efghijkl"], b"<abcdefghijkl>", b"<************>"),
        (["abcdefgh"], b"abcdefghabcdefgh", b"*" * 16),
        (["cdefghij", "abcdefghij"], b"xabcdefghijx", b"x**********x"),
        (["zcdefghij", "cdefghij"], b"xzcdefghijx", b"x*********x"),
        (["abcdabcd"], b"xabcdabcdabcdabcx", b"x************abcx"),
        (["aaaaaaaa"], b"b" + b"a" * 30 + b"b", b"b" + b"*" * 30 + b"b"),
        (["aaaaaaab"], b"a" * 30 + b"b", b"a" * 23 + b"*" * 8),
        (["ab%25cd%"], b"ab%25cd% ab%2525cd%25 ab%25cd", b"******** ************ ab%25cd"),
        (["\\\\\\\\\\\\\\\\"], b"\\" * 7 + b"!" + b"\\" * 16, b"\\" * 7 + b"!" + b"*" * 16),
    ],
)
def test_secrets_that_overlap_touch_or_contain_each_other(
    secrets: list[str], body: bytes, out: bytes
) -> None:
    scrubber = Scrubber(map(Secret, secrets))
    assert scrubber.text(body) == out
    for cut in range(len(body) + 1):
        stream = scrubber.stream()
        assert through(stream, body[:cut], body[cut:]) == out
        assert stream.count == len(re.findall(rb"\*+", out))
    assert through(scrubber.stream(), *(body[i : i + 1] for i in range(len(body)))) == out


def test_a_space_that_a_form_wrote_as_plus() -> None:
    passphrase = "correct horse battery"
    body = f"a={urllib.parse.quote_plus(passphrase)}&b={urllib.parse.quote(passphrase)}"
    assert Scrubber([Secret(passphrase)]).text(body) == f"a={'*' * 21}&b={'*' * 25}"


def test_there_is_no_number_of_occurrences_after_which_it_stops() -> None:
    """K15: decoys must not exhaust a budget."""
    stream = SCRUBBER.stream()
    body = (TOKEN.encode() + b" ") * 5000
    assert through(stream, body) == (b"*" * len(TOKEN) + b" ") * 5000
    assert stream.count == 5000


def test_text_keeps_its_type_and_every_other_character() -> None:
    assert SCRUBBER.text(f"é {TOKEN} \udcff") == "é " + "*" * len(TOKEN) + " \udcff"
    assert SCRUBBER.text(TOKEN.encode()) == b"*" * len(TOKEN)
    assert SCRUBBER.finds(f"q={TOKEN}")
    assert not SCRUBBER.finds("q=" + TOKEN[:-1])


def test_finish_makes_a_stream_new() -> None:
    """One stream can scrub the messages of a WebSocket, of which each ends for itself."""
    stream = SCRUBBER.stream()
    first = stream.feed(TOKEN[:10].encode()) + stream.finish()
    second = stream.feed(TOKEN[10:].encode()) + stream.finish()
    assert first + second == TOKEN.encode()
    assert not stream.found


def test_without_secrets_everything_passes_at_once() -> None:
    stream = Scrubber([]).stream()
    assert stream.feed(b"wiki_hunter2") == b"wiki_hunter2"
    assert stream.finish() == b""


def test_a_scrubber_shows_nothing_and_goes_nowhere() -> None:
    """K14, K19."""
    stream = SCRUBBER.stream()
    shown = repr([SCRUBBER, stream, SCRUBBER._machine, SCRUBBER._search])
    assert "wiki" not in shown
    assert not hasattr(SCRUBBER, "__dict__")
    for act in (pickle.dumps, copy.deepcopy):
        with pytest.raises(TypeError):
            act(SCRUBBER)
        with pytest.raises(TypeError):
            act(stream)
