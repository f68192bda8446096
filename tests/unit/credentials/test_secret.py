"""A secret's value comes out of one method only."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
import logging
import pickle
import pprint
import traceback
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsharness.credentials.secret import Secret, SecretNotFoundError, SecretRef
from nsharness.errors import NsharnessError

VALUE = "wiki_hunter22222222"

lines = st.text(
    st.characters(min_codepoint=0x20, max_codepoint=0x2FFF, blacklist_characters="\x7f"), min_size=1
)


@dataclasses.dataclass
class Holder:
    secret: Secret


def _renderings(secret: Secret) -> list[str]:
    held = Holder(secret)
    return [
        repr(secret),
        str(secret),
        format(secret),
        f"{secret:>80}",
        f"{secret!a}",
        "%s %r" % (secret, secret),  # noqa: UP031
        f"{secret} {secret!r:>99}",
        repr([secret]),
        repr({"k": secret}),
        repr(held),
        repr(dataclasses.asdict(held)),
        pprint.pformat(held),
        repr(copy.copy(secret)),
        repr(copy.deepcopy(held)),
        repr(dir(secret)),
        repr([getattr(secret, name) for name in dir(secret) if name != "reveal"]),
        json.dumps({"k": secret}, default=str),
        logging.LogRecord("n", 20, "p", 1, "%s %r", (secret, secret), None).getMessage(),
    ]


def test_no_rendering_shows_the_value() -> None:
    """K19, and the proxy's rule that logs carry names only."""
    for text in _renderings(Secret(VALUE)):
        assert "hunter" not in text
    assert "hunter" in Secret(VALUE).reveal()


@given(lines)
def test_no_rendering_depends_on_the_value(value: str) -> None:
    renderings = _renderings(Secret(value))[:9]
    assert renderings == _renderings(Secret("another value"))[:9]


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_it_cannot_be_pickled(protocol: int) -> None:
    with pytest.raises(TypeError) as caught:
        pickle.dumps(Holder(Secret(VALUE)), protocol)
    assert "hunter" not in str(caught.value)


def test_it_has_no_dictionary_and_no_json_form() -> None:
    secret: Any = Secret(VALUE)
    dumps: tuple[Callable[[Any], Any], ...] = (vars, json.dumps, hash, iter, len, bytes)
    for dump in dumps:
        with pytest.raises(TypeError) as caught:
            dump(secret)
        assert "hunter" not in str(caught.value)
    with pytest.raises(TypeError):
        secret.__getstate__()


def test_it_does_not_change() -> None:
    secret = Secret(VALUE)
    changes: tuple[Callable[[], None], ...] = (
        lambda: setattr(secret, "_read", str),
        lambda: delattr(secret, "_read"),
    )
    for change in changes:
        with pytest.raises(AttributeError):
            change()
    assert copy.deepcopy(secret) is copy.copy(secret) is secret
    assert secret.reveal() == VALUE


def test_a_traceback_with_locals_shows_nothing() -> None:
    def fails(secret: Secret) -> None:
        _held = {"secret": secret}
        raise RuntimeError("failed")

    with pytest.raises(RuntimeError) as caught:
        fails(Secret(VALUE))
    report = traceback.TracebackException.from_exception(caught.value, capture_locals=True)
    shown = "".join(report.format())
    assert "Secret(***)" in shown
    assert "hunter" not in shown


@pytest.mark.parametrize(
    "wrong",
    [
        VALUE + "\n",
        VALUE + "\r",
        VALUE + "\0",
        "\x1b" + VALUE,
        VALUE + "\x7f",
        "\udcff" + VALUE,
        VALUE.encode() + b"\xff",
        VALUE.encode() + b"\n",
    ],
    ids=repr,
)
def test_a_value_that_is_refused_is_not_quoted_anywhere(wrong: str | bytes) -> None:
    """Neither in the message, nor in the chain of exceptions, nor in the locals of our frames."""
    with pytest.raises(ValueError, match="a secret is") as caught:
        Secret(wrong)
    assert caught.value.__context__ is None
    frames = [frame for frame, _ in traceback.walk_tb(caught.value.__traceback__)]
    ours = [frame for frame in frames if frame.f_code.co_filename.endswith("credentials/secret.py")]
    assert ours
    assert not any("hunter" in repr(frame.f_locals) for frame in ours)


@given(lines, lines)
def test_secrets_are_equal_when_their_values_are(one: str, other: str) -> None:
    assert (Secret(one) == Secret(other)) == (one == other)
    assert Secret(one) == Secret(one.encode())
    assert Secret(one) != one


@pytest.mark.parametrize(
    ("value", "prefix"),
    [
        ("wiki_abcdefgh12345", "wiki_"),
        ("ghp_0123456789abcdef", "ghp_"),
        ("github_pat_0123456789", ""),
        ("sk-0123456789", ""),
        ("_0123456789", ""),
        ("ab_short", ""),
        ("a b_0123456789", ""),
        ("nounderscore", ""),
    ],
)
def test_the_public_prefix_ends_at_the_first_underscore(value: str, prefix: str) -> None:
    assert Secret(value).prefix() == prefix


@given(lines)
def test_the_prefix_gives_away_little_of_any_value(value: str) -> None:
    prefix = Secret(value).prefix()
    assert len(prefix) <= 5
    assert value.startswith(prefix)
    assert not prefix or len(value) - len(prefix) >= 8


def test_the_digest_is_that_of_the_value() -> None:
    assert Secret(VALUE).digest() == hashlib.sha256(VALUE.encode()).hexdigest()


names = st.from_regex(r"[a-z0-9][a-z0-9_-]{0,63}", fullmatch=True)


@given(names, names)
def test_a_reference_reads_as_it_is_written(name: str, key: str) -> None:
    ref = SecretRef.parse(f"{name}.{key}")
    assert (ref.name, ref.key, str(ref)) == (name, key, f"{name}.{key}")
    assert ref.remedy == f"nsharness secret set {name} --key {key}"


@given(st.text(max_size=12) | st.text("ab./\\-_\n\0A~", max_size=12))
def test_no_reference_is_a_path(text: str) -> None:
    try:
        ref = SecretRef.parse(text)
    except ValueError:
        return
    assert str(ref) == text
    assert text.count(".") == 1
    assert not set(text) & set("/\\\0\n ~")
    assert not text.startswith((".", "-"))


@pytest.mark.parametrize(
    "text",
    ["", ".", "a", "a.", ".b", "a.b.c", "A.b", "a.B", "../x", "a/b.c", "a.b\n", "-a.b", "a" * 65 + ".b"],
)
def test_a_malformed_reference_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not"):
        SecretRef.parse(text)


def test_a_missing_secret_tells_how_to_store_it() -> None:
    error: Any = SecretNotFoundError(SecretRef("wiki", "token"), why="there is no such secret")
    assert isinstance(error, NsharnessError)
    assert str(error) == (
        "secret wiki.token: there is no such secret (nsharness secret set wiki --key token)"
    )
