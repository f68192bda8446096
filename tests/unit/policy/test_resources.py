"""The profile's [limits]: numbers in one unit, and one line for what is none."""

from __future__ import annotations

import pytest

from nsharness.errors import NsharnessError
from nsharness.policy.load import parse_profile
from nsharness.policy.resources import LimitSettings


def limits(text: str) -> LimitSettings:
    return parse_profile(f"[limits]\n{text}\n", "test.toml", default_name="test").limits


def test_without_a_table_little_is_limited() -> None:
    values = LimitSettings().values()
    assert {name for name, value in values.items() if value} == {"tmp"}
    assert values["tmp"] == 1 << 30


def test_bytes_seconds_and_cores() -> None:
    text = (
        'memory = "2GiB"\ncpu = 1.5\nwall = "30m"\noutput = 5000\npids = 64\ntmp = "10MB"\nopen_files = 512'
    )
    assert limits(text).values() == {
        "memory": 2 << 30,
        "cpu": 1.5,
        "wall": 1800.0,
        "output": 5000,
        "pids": 64,
        "tmp": 10_000_000,
        "open_files": 512,
        "best_effort": False,
    }


@pytest.mark.parametrize(("text", "seconds"), [("90", 90), ("0.5", 0.5), ('"90s"', 90), ('"1.5h"', 5400)])
def test_times(text: str, seconds: float) -> None:
    assert limits(f"wall = {text}").values()["wall"] == seconds


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('memory = "1MiB"', "at least 32MiB"),
        ("memory = -1", "is not a number of bytes"),
        ('memory = ""', "is not a number of bytes"),
        ("pids = 0", "greater than or equal to 8"),
        ("pids = true", "valid integer"),
        ("cpu = 0", "greater than or equal to 0.01"),
        ("cpu = nan", "greater than or equal to 0.01"),
        ("wall = 0", "longer than nothing"),
        ('wall = "999999d"', "no more than a year"),
        ('wall = "3 weeks"', "not a number of seconds"),
        ("wall = inf", "not a number of seconds"),
        ("open_files = 16", "greater than or equal to 256"),
        ('best_effort = "yes"', "valid boolean"),
        ("memroy = 1", "did you mean memory?"),
    ],
)
def test_what_is_no_limit_is_one_line(text: str, why: str) -> None:
    """K3: never taken for "no limit"."""
    with pytest.raises(NsharnessError) as raised:
        limits(text)
    assert f"line 2, limits.{text.partition(' ')[0]}" in str(raised.value)
    assert why in str(raised.value)
