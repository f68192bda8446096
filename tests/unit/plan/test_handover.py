"""A plan on its way to PID 1: nothing of it is lost, and what is large is not in the line that it reads."""

from __future__ import annotations

import base64

from hypothesis import given
from hypothesis import strategies as st

from nsharness.plan.handover import LARGE, packed, split, unpacked
from nsharness.plan.steps import Bind, Directory, File, Plan, Step, Stored

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
