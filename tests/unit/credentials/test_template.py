"""Templates: references and literal text, and no third thing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsharness.credentials.secret import Secret, SecretRef
from nsharness.credentials.template import Template, TemplateError

WIKI = SecretRef("wiki", "token")

refs = st.builds(SecretRef, st.sampled_from(["wiki", "git-hub", "a_b"]), st.sampled_from(["token", "key-2"]))
literals = st.text("ab :=.-_", min_size=1, max_size=6)
parts = st.lists(refs | literals, max_size=6)


def _lookup(ref: SecretRef) -> Secret:
    return Secret(f"<{ref.name}|{ref.key}>")


@given(parts, st.integers(0, 3))
def test_rendering_replaces_each_reference_and_nothing_else(
    parts: list[SecretRef | str], spaces: int
) -> None:
    gap = " " * spaces
    text = "".join(p if isinstance(p, str) else "{{" + gap + str(p) + gap + "}}" for p in parts)
    expected = "".join(p if isinstance(p, str) else f"<{p.name}|{p.key}>" for p in parts)
    template = Template.parse(text)
    assert template.render(_lookup).reveal() == expected
    assert set(template.refs) == {p for p in parts if isinstance(p, SecretRef)}
    assert Template.parse(str(template)) == template


@given(st.text("{} ab.", max_size=24))
def test_no_double_brace_survives(text: str) -> None:
    """K18: an unresolved template that was sent on as it stood."""
    try:
        template = Template.parse(text)
    except TemplateError:
        return
    literal = "".join(part for part in template.parts if isinstance(part, str))
    rendered = template.render(_lookup).reveal()
    for braces in ("{{", "}}"):
        assert braces not in rendered or braces in literal
        assert not any(braces in part for part in template.parts if isinstance(part, str))
    if not template.refs:
        assert rendered == text


@given(literals | st.sampled_from(["{", "}", "{x}", '{"a":1}']))
def test_text_without_references_stands_for_itself(text: str) -> None:
    assert Template.parse(text).render(_lookup).reveal() == text


@pytest.mark.parametrize(
    "text",
    [
        "{{",
        "}}",
        "{{}}",
        "{{ }}",
        "{{ wiki }}",
        "{{ wiki.token }",
        "{ wiki.token }}",
        "{{ wiki.token",
        "wiki.token }}",
        "{{{ wiki.token }}}",
        "{{{ wiki.token }}",
        "{{ wiki.token }}}",
        "{{ {{ wiki.token }} }}",
        "{{ wiki.token }} {{",
        "}} {{ wiki.token }}",
        "{{ wiki.token.extra }}",
        "{{ Wiki.token }}",
        "{{ wiki . token }}",
        "{{ wiki.token | upper }}",
        "{{ ../../etc/passwd }}",
        "{{ wiki.token\n}}",
        "{{\twiki.token }}",
        "{{ placeholder wiki.token }}",
    ],
)
def test_a_malformed_template_is_refused(text: str) -> None:
    with pytest.raises(TemplateError):
        Template.parse(text)


def test_an_error_does_not_quote_the_text_around_a_reference() -> None:
    with pytest.raises(TemplateError) as caught:
        Template.parse("Bearer hunter22222 {{ wiki")
    assert "hunter" not in str(caught.value)
    assert "column 20" in str(caught.value)


def test_a_value_is_never_a_template_itself() -> None:
    rendered = Template.parse("{{ wiki.token }}").render(lambda ref: Secret("{{ other.token }}"))
    assert rendered.reveal() == "{{ other.token }}"


def test_the_result_is_a_secret_again() -> None:
    template = Template.parse("Bearer {{ wiki.token }}")
    assert template.refs == (WIKI,)
    assert "<wiki" not in repr(template.render(_lookup))


def test_a_reference_that_cannot_be_resolved_gives_no_result() -> None:
    def missing(ref: SecretRef) -> Secret:
        raise LookupError(ref)

    with pytest.raises(LookupError):
        Template.parse("Bearer {{ wiki.token }}").render(missing)


def test_a_long_run_of_spaces_costs_no_time() -> None:
    with pytest.raises(TemplateError):
        Template.parse("{{" + " " * 100_000)
