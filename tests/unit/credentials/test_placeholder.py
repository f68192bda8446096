"""A placeholder looks like the secret, tells nothing about it, and becomes it only where that is allowed."""

from __future__ import annotations

import base64
import json
import re
from itertools import combinations

import pytest

from nsharness.credentials.kinds import GENERIC, KINDS, Kind, kind_named, kind_of, public_head
from nsharness.credentials.placeholder import MARK, detector, placeholder, substitute
from nsharness.credentials.secret import Secret, SecretRef
from tests.support.tiers import others_slow

SALT = bytes(range(32))
REF = SecretRef("github", "token")
REAL = Secret("ghp_real11111111111111111111111111111111")
OTHER = Secret("glpat-other2222222222222")
FAKE = placeholder(REF, kind_named("github-p"), SALT)
FAKE2 = placeholder(SecretRef("lab", "key"), kind_named("gitlab"), SALT)

SHAPES = {
    "anthropic": r"sk-ant-api03-[\w-]{93}AA",
    "openai-project": r"sk-proj-[\w-]{156}",
    "openai": r"sk-[A-Za-z0-9]{48}",
    "github-p": r"ghp_[A-Za-z0-9]{36}",
    "github-fine": r"github_pat_[A-Za-z0-9]{22}_[A-Za-z0-9]{59}",
    "gitlab": r"glpat-[\w-]{20}",
    "slack-bot": r"xoxb-[0-9]{12}-[0-9]{12}-[A-Za-z0-9]{24}",
    "huggingface": r"hf_[A-Za-z]{34}",
    "npm": r"npm_[A-Za-z0-9]{36}",
    "aws": r"AKIA[A-Z2-7]{16}",
    "": r"nsph_[0-9a-f]{32}",
}


def basic(pair: bytes) -> bytes:
    return b"Basic " + base64.b64encode(pair)


@pytest.mark.parametrize("name", SHAPES)
def test_a_placeholder_has_the_shape_that_tools_check_for(name: str) -> None:
    text = placeholder(REF, kind_named(name), SALT)
    assert re.fullmatch(SHAPES[name], text)
    assert kind_of(text) is kind_named(name)


@pytest.mark.parametrize("kind", others_slow([*KINDS, GENERIC]), ids=lambda kind: kind.name)
def test_a_placeholder_is_recognisable_and_is_found(kind: Kind) -> None:
    text = placeholder(REF, kind, SALT)
    plain = text if kind.name != "jwt" else base64.urlsafe_b64decode(text.split(".")[1] + "==").decode()
    assert MARK in plain.lower()
    assert kind.name == "jwt" or len(text) == kind.length
    assert detector([text]).finds(f"x={text}&y")
    assert detector([text]).finds(basic(b"user:" + text.encode()))
    assert not detector([text]).finds(f"x={text[:-4]}")


def test_a_json_web_token_parses_and_is_accepted_by_nobody() -> None:
    header, claims, signature = placeholder(REF, kind_named("jwt"), SALT).split(".")
    assert json.loads(base64.urlsafe_b64decode(header + "=" * (-len(header) % 4)))["alg"] == "none"
    assert json.loads(base64.urlsafe_b64decode(claims + "=" * (-len(claims) % 4)))["exp"] > 4e9
    assert signature  # for "none" it would have to be empty


def test_placeholders_differ_by_run_and_secret_and_are_the_same_again() -> None:
    kind = kind_named("github-p")
    made = [
        placeholder(ref, kind, salt)
        for ref in (REF, SecretRef("github", "other"))
        for salt in (SALT, SALT[::-1])
    ]
    assert all(a != b for a, b in combinations(made, 2))
    assert placeholder(REF, kind, SALT) == made[0]
    with pytest.raises(ValueError, match="32"):
        placeholder(REF, kind, b"short")


@pytest.mark.parametrize(
    ("token", "name", "head"),
    [
        ("sk-ant-api03-abc", "anthropic", "sk-ant-api03-"),
        ("sk-abc", "openai", "sk-"),
        ("github_pat_1", "github-fine", "github_pat_"),
        ("eyJhbGciOi", "jwt", "eyJ"),
        ("wiki_hunter2222", "", "wiki_"),
        ("hunter2222", "", ""),
    ],
)
def test_the_kind_of_a_token_and_what_of_it_is_public(token: str, name: str, head: str) -> None:
    assert kind_of(token).name == name
    assert public_head(token) == head


@pytest.mark.parametrize("form", ["%s", "Bearer %s", "token %s;v=1", "%s,%s"])
def test_a_placeholder_in_a_header_value_becomes_the_secret(form: str) -> None:
    """K18."""
    value = form.replace("%s", FAKE).encode()
    expected = form.replace("%s", REAL.reveal()).encode()
    assert substitute(value, {FAKE: REAL, FAKE2: OTHER}) == (expected, (FAKE,))


@pytest.mark.parametrize("pair", ["user:%s", "%s:", "%s:x-oauth-basic", "%s:%s", "a:b:%s"])
@pytest.mark.parametrize("scheme", [b"Basic ", b"basic  "])
def test_a_placeholder_in_a_basic_pair_becomes_the_secret(pair: str, scheme: bytes) -> None:
    sent = scheme + base64.b64encode(pair.replace("%s", FAKE).encode())
    value, used = substitute(sent, {FAKE: REAL})
    assert used == (FAKE,)
    assert value == scheme + base64.b64encode(pair.replace("%s", REAL.reveal()).encode())
    assert substitute(sent.rstrip(b"="), {FAKE: REAL}) == (value, used)


def test_a_placeholder_that_is_not_bound_here_stays() -> None:
    """K18."""
    value = f"Bearer {FAKE}".encode()
    assert substitute(value, {}) == (value, ())
    assert substitute(value, {FAKE2: OTHER}) == (value, ())
    assert substitute(basic(FAKE.encode()), {FAKE2: OTHER}) == (basic(FAKE.encode()), ())


def test_several_are_named_in_their_order_each_once() -> None:
    value = f"{FAKE2} {FAKE} {FAKE2}".encode()
    out, used = substitute(value, {FAKE: REAL, FAKE2: OTHER})
    assert used == (FAKE2, FAKE)
    assert out == f"{OTHER.reveal()} {REAL.reveal()} {OTHER.reveal()}".encode()


def test_a_value_is_not_searched_for_placeholders() -> None:
    out, used = substitute(FAKE.encode(), {FAKE: Secret(f"x{FAKE2}"), FAKE2: OTHER})
    assert (out, used) == (f"x{FAKE2}".encode(), (FAKE,))


@pytest.mark.parametrize("value", [b"Basic !!", b"Basic a", b"Basic", b"", b"\xff\xfe", b"Basic abcd"])
def test_a_value_without_placeholders_is_not_touched(value: bytes) -> None:
    assert substitute(value, {FAKE: REAL}) == (value, ())


def test_a_longer_placeholder_wins_over_its_own_beginning() -> None:
    assert substitute(b"nsph_ab nsph_a", {"nsph_a": REAL, "nsph_ab": OTHER})[1] == ("nsph_ab", "nsph_a")


def test_whoever_looks_for_the_same_placeholders_shares_what_finds_them() -> None:
    assert detector([FAKE, FAKE2]) is detector([FAKE2, FAKE])
    assert not detector([FAKE]).finds(FAKE2)
