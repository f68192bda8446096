"""``{{ placeholder name.key }}`` in the workload's environment, and nothing that only looks like it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsharness.credentials.secret import SecretRef
from nsharness.policy.placeholders import fill, references

KEY, OTHER = SecretRef("anthropic", "key"), SecretRef("other", "key")


def test_references_are_found_and_filled_in_their_order() -> None:
    text = "{{ placeholder other.key }}:{{placeholder anthropic.key}}/{{ placeholder other.key }}"
    assert references(text) == (OTHER, KEY)
    assert fill(text, lambda ref: f"<{ref.name}>") == "<other>:<anthropic>/<other>"
    assert references("") == references("plain { braces }") == ()


@pytest.mark.parametrize(
    "text",
    [
        "{{ anthropic.key }}",
        "{{ placeholderanthropic.key }}",
        "{{ placeholder }}",
        "{{ placeholder anthropic }}",
        "{{ placeholder Anthropic.key }}",
        "{{ placeholder anthropic.key other.key }}",
        "{{ placeholder anthropic.key",
        "placeholder anthropic.key }}",
        "{{ placeholder {{ anthropic.key }} }}",
        "{{}}",
        "{{ secret anthropic.key }}",
    ],
)
def test_other_braces_are_an_error(text: str) -> None:
    """K18: what is misspelled must not arrive as it stands."""
    with pytest.raises(ValueError, match=r"\S"):
        references(text)


@given(st.text("{} ab.placeholder", max_size=40))
def test_any_text_is_filled_or_refused(text: str) -> None:
    try:
        filled = fill(text, lambda _: "P")
    except ValueError:
        return
    assert "{{" not in filled
    assert "}}" not in filled
    assert "{{" in text or filled == text


@given(st.text("{} ab", max_size=10))
def test_what_is_filled_in_is_not_read_again(value: str) -> None:
    assert fill("{{ placeholder a.b }}", lambda _: value) == value
