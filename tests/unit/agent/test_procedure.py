"""The steps of a SKILL.md, read literally."""

from __future__ import annotations

import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nsharness.agent.procedure import ProcedureError, Step, keeping, kept_value, parse

TEXT = """\
---
name: x
---
# Title

```sh
echo before any step
```

## Steps
1. Fetch it.

   ```sh
   curl -s http://wiki.local/a \\
     | cat
   ```

   Expect: a line that starts with `Fact: `.
   Keep: the rest of that line as `FACT`.

2. Think about it.
3. Write it

   ~~~ not a fence
   ```bash
   # a comment, no heading
   if true; then
       echo "$FACT" > f
   fi
   ```
   ```text
   not a command
   ```
   ```sh
   cat f
   ```
   Expect: a line that starts with `A`

# Answer
Expect: nothing here, this is prose.
```sh
echo after the steps
```
"""


def test_steps_are_the_sh_blocks_below_numbered_lines_as_they_are_written() -> None:
    assert parse(TEXT) == (
        Step(1, "Fetch it.", "curl -s http://wiki.local/a \\\n  | cat", "Fact: ", "FACT"),
        Step(3, "Write it", '# a comment, no heading\nif true; then\n    echo "$FACT" > f\nfi'),
        Step(3, "Write it", "cat f", "A"),
    )


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "no numbered step"),
        ("1. Only words.", "no numbered step"),
        ("1. A\n```sh\ntrue", "line 2: the block is never closed"),
        ("1. A\n```sh\n \n```", "line 2: the block is empty"),
        ("1. A\nExpect: a line that starts with `x`.", "line 2: .* no command"),
        ("1. A\n```sh\na\n```\n2. B\nKeep: the rest of that line as `B`", "line 6: .* no command"),
        ("1. A\n```sh\na\n```\nExpect: it prints something", "line 5: .* not one of the known forms"),
        ("1. A\n```sh\na\n```\nExpect: a line that starts with ``.", "line 5: .* not one of the known forms"),
        ("1. A\n```sh\na\n```\nKeep: the rest of that line as `B`.", "line 5: .* not in its place"),
        ("1. A\n```sh\na\n```\nKeep: the rest of that line as `B; rm`.", "line 5"),
        (
            "1. A\n```sh\na\n```\nExpect: a line that starts with `x`\nExpect: a line that starts with `y`",
            "line 6",
        ),
    ],
)
def test_what_is_unclear_is_an_error_that_says_where(text: str, problem: str) -> None:
    """K12: a check that is worded wrongly must not be a check that silently does not happen."""
    with pytest.raises(ProcedureError, match=problem):
        parse(text)


def test_a_longer_fence_may_hold_a_shorter_one() -> None:
    assert parse("1. A\n````sh\ncat <<'E'\n```\nE\n````")[0].command == "cat <<'E'\n```\nE"


def test_what_is_kept_is_the_rest_of_the_first_line_that_begins_right() -> None:
    step = Step(1, "A", "a", "Fact: ", "FACT")
    assert kept_value(step, "x\n Fact: no\nFact:  one \nFact: two") == "one"
    assert kept_value(step, "no Fact: here\nfact: x") is None
    assert kept_value(step, "") is None
    assert kept_value(Step(1, "A", "a"), "") == ""


@settings(max_examples=25)
@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=50))
@pytest.mark.parametrize("extra", ["", "'; exit 3; '", "$(exit 3)`exit 3`\\", "\x1b[2J", "!!"])
def test_a_kept_value_is_text_for_the_shell_whatever_it_says(extra: str, value: str) -> None:
    command = f'{keeping("FACT", extra + value)}\nprintf %s "$FACT"'
    done = subprocess.run(["bash", "-c", command], capture_output=True, check=True)
    assert done.stdout.decode() == extra + value


@given(st.text(max_size=400) | st.lists(st.sampled_from(TEXT.splitlines()), max_size=30).map("\n".join))
def test_any_text_is_steps_or_an_error(text: str) -> None:
    try:
        steps = parse(text)
    except ProcedureError:
        return
    assert steps
    assert all(step.command.strip() for step in steps)
