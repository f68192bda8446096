"""Counting as a function of values: never more than the rate says, and as much as it says."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from nsharness.policy.decide import Deny
from nsharness.policy.hosts import HostPattern
from nsharness.policy.limits import Usage, admit, retry_after
from nsharness.policy.model import Rule
from nsharness.policy.units import Rate

SECOND = 10**9


def _rule(rate: Rate | None = None, max_requests: int | None = None) -> Rule:
    return Rule("r", (HostPattern.parse("wiki.local"),), rate=rate, max_requests=max_requests)


def _admitted(rule: Rule, moments: list[int]) -> list[int]:
    """The moments at which a request was admitted."""
    usage = Usage()
    admitted = []
    for now in moments:
        usage, denied = admit(rule, usage, now)
        if denied is None:
            admitted.append(now)
    return admitted


rates = st.builds(Rate, st.integers(1, 12), st.sampled_from([1, 60]))
moments = st.lists(st.integers(0, 40 * SECOND // 10), max_size=60).map(
    lambda gaps: list(itertools.accumulate(gaps, initial=5))
)


def test_a_rule_without_limits_admits_and_counts() -> None:
    usage = Usage()
    for number in range(1, 50):
        usage, denied = admit(_rule(), usage, 0)
        assert denied is None
        assert usage.requests == number


def test_max_requests_is_for_good() -> None:
    rule = _rule(max_requests=3)
    assert len(_admitted(rule, [number * 86400 * SECOND for number in range(10)])) == 3
    usage, denied = admit(rule, Usage(requests=3), 10**18)
    assert usage == Usage(requests=3)
    assert isinstance(denied, Deny)
    assert (denied.reason, denied.status, denied.rule) == ("requests-exhausted", 429, "r")


def test_a_burst_is_as_large_as_the_count_and_then_one_by_one() -> None:
    rule = _rule(Rate(3, 1))
    assert _admitted(rule, [5] * 10) == [5] * 3
    third = SECOND // 3 + 1
    assert _admitted(rule, [5, 5, 5, 5 + third - 1, 5 + third, 5 + third, 5 + 2 * third]) == [
        5,
        5,
        5,
        5 + third,
        5 + 2 * third,
    ]
    assert len(_admitted(rule, [5] * 5 + [5 + 10 * SECOND] * 5)) == 6


@given(rates, moments)
def test_no_period_has_more_than_a_bucket_and_what_flowed_in(rate: Rate, moments: list[int]) -> None:
    admitted = _admitted(_rule(rate), moments)
    for start in range(len(admitted)):
        for end in range(start, len(admitted)):
            elapsed = admitted[end] - admitted[start]
            assert end - start + 1 <= rate.count + elapsed * rate.count // (rate.seconds * SECOND)


@given(rates, moments)
def test_it_is_a_token_bucket(rate: Rate, moments: list[int]) -> None:
    """Against the textbook: tokens in exact fractions. Intervals are rounded up to a nanosecond, so what it
    admits the bucket would have had; and what the bucket has by a little more than that is admitted."""
    rule, period = _rule(rate), rate.seconds * SECOND
    usage, level, last = Usage(), rate.count * period, 0
    for now in moments:
        level, last = min(rate.count * period, level + (now - last) * rate.count), now
        usage, denied = admit(rule, usage, now)
        if denied is None:
            assert level >= period
            level -= period
        else:
            assert level < period + len(moments) * rate.count**2


@given(rates, moments)
def test_waiting_as_long_as_told_is_enough_and_not_much_too_long(rate: Rate, moments: list[int]) -> None:
    rule = _rule(rate)
    usage = Usage()
    for now in moments:
        before = usage
        usage, denied = admit(rule, usage, now)
        wait = retry_after(rule, before, now)
        assert (wait == 0) == (denied is None)
        if denied is not None:
            assert usage == before
            assert denied.reason == "rate-exceeded"
            assert f"wait {wait} s" in denied.hint
            assert admit(rule, usage, now + wait * SECOND)[1] is None
            assert admit(rule, usage, now + (wait - 1) * SECOND)[1] is not None


@given(rates, st.integers(1, 5), moments)
def test_both_limits_hold(rate: Rate, most: int, moments: list[int]) -> None:
    both = _admitted(_rule(rate, most), moments)
    assert both == _admitted(_rule(rate), moments)[:most]
