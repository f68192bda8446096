"""Where a form could begin: the library names the same places as the search without it, or more."""

from __future__ import annotations

import platform
import random
from importlib.util import find_spec
from typing import NoReturn

import hypothesis.strategies as st
import pytest
from hypothesis import given

from nsharness.credentials import scrub_scan
from nsharness.credentials.scrub_forms import forms_of
from nsharness.credentials.scrub_scan import Scanner
from nsharness.credentials.scrub_search import Places, Search
from tests.support import scrub_reference as reference

# Where it is asked for, and missing, all of this fails.
pytestmark = pytest.mark.skipif(
    platform.machine() != "x86_64" and find_spec("hyperscan") is None, reason="there is no hyperscan"
)

SECRETS = ["wiki_9aK/dLm28fj+QwXz7PbRt0YuVs3HcGn", "correct horse battery", 'a%2f&amp;b\\u0041 "quoted"']


def both(secrets: list[str]) -> tuple[Search, Search]:
    forms = forms_of(secrets)
    return Search(forms), Search(forms, scanned=False)


def begins(places: Places, end: int) -> list[tuple[int, int]]:
    found = []
    position = 0
    while position < end:
        begin, seen = places.after(position)
        if begin >= end:
            break
        found.append((begin, seen))
        position = seen + 1
    return found


@given(st.integers(min_value=0, max_value=1 << 62))
def test_nothing_that_the_search_names_is_missed_by_the_library(seed: int) -> None:
    rng = random.Random(seed)
    secrets = reference.random_secrets(rng)
    scanned, searched = both(secrets)
    for _ in range(4):
        body = reference.random_body(rng, secrets)
        assert scanned.anywhere(body) == searched.anywhere(body)
        covered = begins(scanned.over(body, 0), len(body))
        for begin, _ in begins(searched.over(body, 0), len(body)):
            assert any(first <= begin <= last for first, last in covered)


@pytest.mark.parametrize("size", [0, 1, 15, 64, 4096, 100_000])
@pytest.mark.parametrize("secret", SECRETS)
def test_it_is_found_wherever_it_stands(secret: str, size: int) -> None:
    scanned, _ = both([secret])
    for filler in (b"\0", b"\xff", b"x", b" "):
        block = filler * size
        assert not scanned.anywhere(block)
        assert scanned.anywhere(block + secret.encode())
        assert scanned.anywhere(secret.encode().upper() + block)


def test_where_many_are_found_the_search_goes_on_without_the_library() -> None:
    scanned, searched = both([SECRETS[0]])
    block = b"%39" * 1000
    assert scanned._scanner is not None
    assert scanned._scanner.places(block) is None
    assert scanned.over(block, 0).after(0) == searched.over(block, 0).after(0)


def test_what_is_too_long_for_the_library_is_not_called_clean(monkeypatch: pytest.MonkeyPatch) -> None:
    scanned, _ = both([SECRETS[0]])
    monkeypatch.setattr(scrub_scan, "_MOST_BYTES", 10)
    assert scanned.anywhere(b"." * 11)
    assert not scanned.anywhere(b"." * 10)
    assert scanned.over(b"." * 11, 0).after(0) == (11, 11)


def test_the_library_is_there_and_used() -> None:
    assert both(SECRETS)[0]._scanner is not None


def test_an_expression_that_the_library_refuses_is_not_quoted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scrub_scan, "_expression", lambda needle: b"(" + needle)
    with pytest.raises(RuntimeError) as raised:
        Scanner([b"secretsecret"], [], longest_escape=8, before_escape=18)
    assert "secret" not in str(raised.value)
    assert raised.value.__cause__ is None
    search, _ = both([SECRETS[0]])
    assert search._scanner is None
    assert search.anywhere(SECRETS[0].encode())


def test_a_failure_while_scanning_is_not_taken_for_nothing_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> NoReturn:
        raise ValueError("broken")

    scanned, _ = both([SECRETS[0]])
    monkeypatch.setattr(scrub_scan, "_stop", broken)
    with pytest.raises(ValueError, match="broken"):
        scanned.anywhere(SECRETS[0].encode())
