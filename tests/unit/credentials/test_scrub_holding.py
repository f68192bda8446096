"""What a stream holds back: little, bounded, and nothing that tells about a secret."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsharness.credentials.scrub import Scrubber
from nsharness.credentials.secret import Secret

pytestmark = pytest.mark.usefixtures("search")

SECRET = "ghp_k3vN81xQmZ70aLpW5tRs2yBd9uJc4hFe6gXo"
SCRUBBER = Scrubber([Secret("Bearer " + SECRET)])
HEADLESS = Scrubber([Secret("hunter2hunter3")])
WIDE = Scrubber([Secret('pass "word" {1}')])


@pytest.mark.parametrize("scrubber", [SCRUBBER, HEADLESS, WIDE], ids=["prefix", "none", "wide"])
@pytest.mark.parametrize(
    "event",
    [
        b'data: {"delta": "hello"}\n\n',
        b"event: done\r\n\r\n",
        b"\x00\x00\x01\xff",
        b"GIF89a\x80",
        "grüß".encode() + "ü".encode(),
        SECRET[:10].encode() + b"\n",
    ],
)
def test_an_event_comes_out_in_the_call_that_it_went_in(scrubber: Scrubber, event: bytes) -> None:
    stream = scrubber.stream()
    for _ in range(3):
        assert stream.feed(event) == event
        assert stream.held == 0


@pytest.mark.parametrize("scrubber", [SCRUBBER, HEADLESS], ids=["prefix", "none"])
@pytest.mark.parametrize("end", [b" ", b'"', b"}", b"]", b">", b",", b":", b")"])
def test_what_no_token_contains_ends_what_is_held(scrubber: Scrubber, end: bytes) -> None:
    event = b'{"a":"ghp_hunter2' + end
    assert scrubber.stream().feed(event) == event


@pytest.mark.parametrize(
    ("tail", "held"),
    [
        (b"hello", b""),
        (b"hello g", b"g"),
        (b"hello ghp", b"ghp"),
        (b"hello ghx", b""),
        (b"say %67%6", b"%67%6"),
        (b"say %6", b"%6"),
        (b"say %2", b"%2"),  # perhaps %25, and then 67
        (b"say %3", b"%3"),  # perhaps %36, the first digit of its hexadecimal
        (b"say %8", b""),
        (rb"say \u0067\u006", rb"\u0067\u006"),
        (b"say 676870", b"676870"),
        (b"say Z2h", b"Z2h"),
        (b"say xghp_abc", b"ghp_abc"),
    ],
)
def test_of_a_run_only_what_follows_a_public_beginning_is_held(tail: bytes, held: bytes) -> None:
    stream = SCRUBBER.stream()
    assert stream.feed(tail) == tail.removesuffix(held)
    assert stream.finish() == held


@pytest.mark.slow
@given(st.integers(0, 1 << 62), st.sampled_from([SECRET, "hunter2hunter3"]))
def test_what_is_held_does_not_tell_a_right_guess_from_a_wrong_one(seed: int, secret: str) -> None:
    """A workload that can have its bytes echoed in pieces must not read the secret out letter by letter."""
    rng = random.Random(seed)
    scrubber = Scrubber([Secret(secret)])
    known = 4 if secret == SECRET else 0
    letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
    length = rng.randrange(known + 1, len(secret))
    right = secret[:length]
    wrong = right[:-1] + rng.choice([c for c in letters if c != right[-1] and c not in secret[:1]])
    before = rng.choice(["", "x=", "\n", "k "])
    for guess in (right, wrong):
        other = wrong if guess is right else right
        a, b = scrubber.stream(), scrubber.stream()
        cut = rng.randrange(length + 1)
        for one, two in ((before, before), (guess[:cut], other[:cut]), (guess[cut:], other[cut:])):
            assert len(a.feed(one.encode())) == len(b.feed(two.encode()))
            assert a.held == b.held


@given(st.integers(0, 1 << 62))
def test_no_more_is_held_than_the_longest_form_could_need(seed: int) -> None:
    rng = random.Random(seed)
    for scrubber in (SCRUBBER, HEADLESS, WIDE):
        stream = scrubber.stream()
        went = came = 0
        for _ in range(30):
            piece = rng.choice([b"ghp_", b"a" * 500, b"%67", b"\\u00", b"0", b"A", b"hunter2", b"x" * 3])
            went += len(piece)
            came += len(stream.feed(piece))
            assert went - came == stream.held <= scrubber.look_behind
        assert came + len(stream.finish()) == went


def test_a_run_in_an_earlier_piece_does_not_hold_a_later_one() -> None:
    stream = SCRUBBER.stream()
    assert stream.feed(b"ghp") == b""
    assert stream.feed(b"!\n") == b"ghp!\n"
    assert stream.feed(b"_abc") == b"_abc"
    assert stream.feed(b" gh") == b" "
    assert stream.feed(b"! p_abc") == b"gh! p_abc"
    assert stream.feed(b"! ghp_") == b"! "
    assert stream.feed(b"\n") == b"ghp_\n"
    assert stream.feed(b"abc") == b"abc"
