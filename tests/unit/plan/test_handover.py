"""A plan on its way to PID 1: nothing of it is lost, and what is large is not in the line that it reads."""

from __future__ import annotations

import base64
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsharness.plan.handover import LARGE, Beginning, packed, shared, split, unpacked
from nsharness.plan.steps import Bind, Cover, Directory, File, Overlay, Plan, ReadOnly, Step, Stored, Tmpfs

texts = st.one_of(st.text(max_size=50), st.sampled_from(["é" * LARGE, "a" * LARGE, "a\nb" * LARGE]))
files = st.builds(File, st.just("/file"), texts, st.sampled_from([0o400, 0o444]), st.booleans())
binaries = st.builds(
    lambda content: File("/binary", base64.b64encode(content).decode(), binary=True),
    st.sampled_from([b"", b"\n\0\xff", b"\n\xff" * LARGE]),
)
others = st.sampled_from([Directory("/a"), Bind("/usr", "/usr")])


def plan(steps: list[Step]) -> Plan:
    return Plan("box", "box", 1000, 1000, "/tmp", {"HOME": "/h"}, tuple(steps), resolved={"/x": "/y"})


def content_of(step: File) -> bytes:
    return base64.b64decode(step.content) if step.binary else step.content.encode()


@given(st.lists(st.one_of(files, binaries, others), max_size=6))
def test_what_arrives_is_what_was_sent(steps: list[Step]) -> None:
    sent = plan(steps)
    file = packed(*split(sent))
    line = file[: file.index(b"\n") + 1]
    arrived = unpacked(line)
    assert arrived.environment == sent.environment
    assert arrived.resolved == sent.resolved
    assert len(arrived.steps) == len(steps)
    for before, after in zip(steps, arrived.steps, strict=True):
        if isinstance(after, Stored):
            assert isinstance(before, File)
            assert (after.path, after.mode) == (before.path, before.mode)
            assert file[after.at : after.at + after.size] == content_of(before)
        else:
            assert after == before


@given(st.lists(st.one_of(files, binaries), max_size=6))
def test_what_is_large_is_not_in_the_line(steps: list[Step]) -> None:
    left, _ = split(plan(steps))
    for before, after in zip(steps, left.steps, strict=True):
        assert isinstance(before, File)
        stays = before.owned or len(before.content) < LARGE
        assert isinstance(after, Stored) is not stays


def test_a_plan_without_large_files_may_come_as_json_alone() -> None:
    sent = plan([File("/etc/hostname", "box\n")])
    assert unpacked(sent.to_json().encode()) == sent


def test_people_are_told_the_same_of_a_file_wherever_it_is() -> None:
    sent = plan([File("/etc/bundle", "a" * LARGE)])
    left, _ = split(sent)
    assert left.describe() == sent.describe().replace("characters", "bytes")


@given(
    st.lists(st.one_of(files, others), max_size=5), st.lists(files, max_size=3), st.lists(files, max_size=3)
)
def test_plans_share_what_both_begin_with(common: list[Step], one: list[Step], two: list[Step]) -> None:
    first, second = plan([*common, *one]), plan([*common, *two])
    count = shared(first, second)
    assert count >= len(common)
    beginning = Beginning(1, 1000, 1000, second.steps[:count])
    assert beginning.fits(first)
    assert beginning.fits(second)
    assert Beginning.from_json(beginning.to_json().encode()) == beginning


def test_nothing_is_shared_with_another_user() -> None:
    steps: list[Step] = [Directory("/a")]
    other = replace(plan(steps), uid=1001)
    assert shared(other, plan(steps)) == 0
    assert not Beginning(1, 1000, 1000, tuple(steps)).fits(other)


@pytest.mark.parametrize(
    "step", [Overlay("/w", "/w", "/u", "/k"), Cover("/w/.env", "/x"), Stored("/f", 0, 9), ReadOnly("/")]
)
def test_what_only_one_sandbox_can_have_is_not_done_ahead(step: Step) -> None:
    both = plan([Directory("/a"), step, Directory("/b")])
    assert shared(both, both) == 1


def test_no_beginning_fits_every_plan() -> None:
    assert Beginning().fits(plan([]))


def test_a_private_place_that_becomes_read_only_is_not_made_ahead() -> None:
    """It is granted less from the start, and what was granted cannot be taken back."""
    place, closing = Tmpfs("/p", 1 << 20), ReadOnly("/p")
    with_closing = plan([Directory("/a"), place, closing])
    assert shared(with_closing, with_closing) == 1
    assert not Beginning(1, 1000, 1000, (Directory("/a"), place)).fits(with_closing)
    assert Beginning(1, 1000, 1000, (Directory("/a"), place)).fits(plan([Directory("/a"), place]))
