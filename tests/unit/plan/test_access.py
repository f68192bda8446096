"""The rules of the second layer, from the steps of a plan."""

from __future__ import annotations

from collections.abc import Iterable

from hypothesis import given
from hypothesis import strategies as st

from nsharness.plan.access import describe, grants
from nsharness.plan.steps import (
    Bind,
    Cover,
    Device,
    Devpts,
    Directory,
    File,
    Mask,
    Overlay,
    Plan,
    Proc,
    ReadOnly,
    Step,
    Symlink,
    Tmpfs,
)


def rights(*steps: Step) -> dict[str, set[str]]:
    plan = Plan("box", "box", 1000, 1000, "/tmp", {}, steps)
    found = grants(plan.steps)
    assert len({grant.path for grant in found}) == len(found)
    return {grant.path: set(grant.rights) for grant in found}


def test_everything_that_is_there_may_be_read_and_nothing_more() -> None:
    assert rights() == {"/": {"read"}}
    steps = (Directory("/a", owned=True), Symlink("/b", "a"), File("/c", "x", owned=True), Cover("/d", "/c"))
    assert rights(*steps, Mask("/e"), ReadOnly("/")) == {"/": {"read"}}


def test_programs_are_executed_where_the_plan_mounts_them_executable() -> None:
    found = rights(Bind("/usr", "/usr"), Bind("/x", "/x", noexec=True), Tmpfs("/dev/shm", 1, noexec=True))
    assert found == {"/": {"read"}, "/usr": {"execute"}, "/dev/shm": {"write", "make"}}


def test_writing_is_for_what_is_mounted_writable() -> None:
    found = rights(
        Bind("/work", "/work", writable=True),
        Bind("/work/.git/hooks", "/work/.git/hooks"),
        Overlay("/o", "/o", "/u", "/w"),
        Tmpfs("/tmp", 1),
    )
    everything = {"execute", "write", "make"}
    assert found == {
        "/": {"read"},
        "/work": everything,
        "/work/.git/hooks": {"execute"},
        "/o": everything,
        "/tmp": everything,
    }


def test_a_private_folder_that_is_closed_later_is_not_writable() -> None:
    assert rights(Tmpfs("/etc/n/client", 1, noexec=True), ReadOnly("/etc/n/client")) == {"/": {"read"}}


def test_devices_take_commands_and_proc_takes_what_is_written() -> None:
    device = {"read", "write", "device"}
    found = rights(Proc(), Device("/dev/null"), Devpts())
    assert found == {"/": {"read"}, "/proc": {"write"}, "/dev/null": device, "/dev/pts": device}


PATHS = st.sampled_from(["/a", "/b", "/a/c"])
STEPS = st.one_of(
    st.builds(lambda p, w, n: Bind(p, p, w, n), PATHS, st.booleans(), st.booleans()),
    st.builds(lambda p, n: Tmpfs(p, 1, noexec=n), PATHS, st.booleans()),
    st.builds(ReadOnly, PATHS),
    st.builds(Directory, PATHS),
)


@given(steps=st.lists(STEPS))
def test_nothing_is_writable_that_no_step_mounts_writable(steps: Iterable[Step]) -> None:
    steps = tuple(steps)
    mounted = {step.path for step in steps if isinstance(step, Tmpfs)}
    mounted |= {step.path for step in steps if isinstance(step, Bind) and step.writable}
    for path, given_rights in rights(*steps).items():
        assert not {"write", "make"} & given_rights or path in mounted


def test_the_lines_name_the_paths_of_each_right() -> None:
    plan = Plan("box", "box", 1, 1, "/", {}, (Bind("/usr", "/usr"), Proc(), Tmpfs("/tmp", 1)))
    assert describe(grants(plan.steps)) == [
        "landlock   read: /",
        "landlock   execute: /usr /tmp",
        "landlock   write: /proc /tmp",
        "landlock   make: /tmp",
        "landlock   device: nothing",
    ]
