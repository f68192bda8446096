"""What is remembered, and that long texts are not."""

from __future__ import annotations

from nsharness.policy.authority import Claims, Refusal, authority
from nsharness.policy.remembering import LONGEST, remembered


def test_short_texts_are_asked_about_once_and_long_ones_each_time() -> None:
    asked: list[str] = []

    @remembered
    def length(text: str) -> int:
        """How long it is."""
        asked.append(text)
        return len(text)

    short, long = "a" * LONGEST, "a" * (LONGEST + 1)
    assert [length(text) for text in (short, short, long, long)] == [LONGEST] * 2 + [LONGEST + 1] * 2
    assert asked == [short, long, long]
    assert (length.__name__, length.__doc__) == ("length", "How long it is.")


def test_a_refusal_is_the_same_each_time_it_is_asked_for() -> None:
    claims = Claims("forward", absolute_uri_authority="a.test", host_headers=("b" * 1000,))
    assert authority(claims) == authority(claims)
    assert isinstance(authority(claims), Refusal)
