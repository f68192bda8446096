"""How often a rule may be used: counting as a function of values, so that whoever keeps the values decides
how long they last and for whom they count.

The rate is a token bucket that holds ``count`` tokens and is filled with one every ``period / count``. It
is kept as the moment at which it will be full again, one whole number, which is the generic cell rate
algorithm: no timer, no rounding that would add up.
"""

from __future__ import annotations

from dataclasses import dataclass

from nsharness.policy.decide import Deny
from nsharness.policy.model import Rule

_NANOSECONDS = 10**9


@dataclass(frozen=True, slots=True)
class Usage:
    """How much of a rule one sandbox has used. ``requests`` were admitted so far; ``full`` is the moment,
    in nanoseconds of the monotonic clock, at which the bucket is full again."""

    requests: int = 0
    full: int = 0


@dataclass(frozen=True, slots=True)
class _Bucket:
    """A rate in nanoseconds: one token comes every ``interval``, and ``spare`` of time may be owed."""

    interval: int
    spare: int


def admit(rule: Rule, usage: Usage, now: int) -> tuple[Usage, Deny | None]:
    """Admit one more request at ``now`` (``time.monotonic_ns()``), or say why not.

    What is denied uses nothing up: the usage comes back as it was. A rule without limits counts, too.
    """
    if rule.max_requests is not None and usage.requests >= rule.max_requests:
        hint = f"rule {rule.name} allows {rule.max_requests} requests in a run: raise its max_requests"
        return usage, Deny("requests-exhausted", rule.name, hint)
    full = usage.full
    if rule.rate is not None:
        bucket = _bucket(rule)
        full = max(usage.full, now)
        if full - now > bucket.spare:
            wait = retry_after(rule, usage, now)
            hint = f"rule {rule.name} allows {rule.rate}: wait {wait} s, or raise its rate"
            return usage, Deny("rate-exceeded", rule.name, hint)
        full += bucket.interval
    return Usage(usage.requests + 1, full), None


def retry_after(rule: Rule, usage: Usage, now: int) -> int:
    """Whole seconds until the rate admits a request again, for ``Retry-After`` (RFC 9110 section 10.2.3); 0
    if it does now."""
    if rule.rate is None:
        return 0
    waiting = max(usage.full - now - _bucket(rule).spare, 0)
    return -(-waiting // _NANOSECONDS)


def _bucket(rule: Rule) -> _Bucket:
    assert rule.rate is not None
    interval = -(-rule.rate.seconds * _NANOSECONDS // rule.rate.count)
    return _Bucket(interval, interval * (rule.rate.count - 1))
