"""One more rule at the end of a profile, and everything that stood there as it was."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsharness.errors import NsharnessError
from nsharness.policy.amend import rule_name, with_host
from nsharness.policy.load import parse_profile

PROFILE = """\
# mine
name = "mine"   # of all names

[env]
A = "b"  # kept

[[sandbox_proxy_rules]]
name = "asked-x.example"
hosts = ["wiki.example.com"]
"""


@pytest.mark.parametrize("text", ["", "# nothing\n", PROFILE, PROFILE.rstrip("\n"), "name = 'a'"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_the_rule_is_the_last_and_the_text_before_it_stays(text: str, newline: str) -> None:
    text = text.replace("\n", newline)
    made = with_host(text, "x.example", "p", when="2030-01-01")
    assert made.startswith(text)
    assert made.count("\r\n") == (made.count("\n") if newline == "\r\n" and newline in text else 0)
    assert "2030-01-01" in made
    last = parse_profile(made, "p", default_name="p").sandbox_proxy_rules[-1]
    assert (last.hosts, last.inspect, last.headers) == (("x.example",), True, {})


@pytest.mark.parametrize(
    "text",
    ["sandbox_proxy_rules = []\n", "nonsense", 'sandbox_proxy_rules = [{ name = "a", hosts = ["b"] }]'],
)
def test_a_profile_that_takes_no_rule_at_its_end_is_left_alone(text: str) -> None:
    with pytest.raises(NsharnessError):
        with_host(text, "x.example", "p", when="2030-01-01")


@given(st.text(max_size=300), st.sets(st.text(max_size=5)))
def test_a_rule_has_a_name_that_is_free_and_that_profiles_take(host: str, taken: set[str]) -> None:
    name = rule_name("asked", host, taken)
    assert name not in taken
    other = rule_name("asked", host, {*taken, name})
    assert other != name
    for each in (name, other):
        parse_profile(
            f'[[sandbox_proxy_rules]]\nname = "{each}"\nhosts = ["a.example"]\n', "p", default_name="p"
        )
