"""Where control groups can be made, read from trees as other machines have them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from nsharness.linux import cgroups
from nsharness.linux.cgroups import Hierarchy


def group(folder: Path, *, processes: str = "", offers: str = "memory pids", gives: str = "") -> Path:
    """A folder of cgroup v2 as files."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in (
        ("cgroup.procs", processes),
        ("cgroup.controllers", offers),
        ("cgroup.subtree_control", gives),
    ):
        (folder / name).write_text(text + "\n")
    return folder


def unified(mount: Path, own: Path) -> cgroups.Available:
    return cgroups.available([Hierarchy(2, frozenset(), str(mount), str(own))])


def test_a_group_with_processes_is_passed_over_for_one_above(tmp_path: Path) -> None:
    """As in a scope of a systemd user session: ours holds us, the slice above gives its controllers."""
    mount = group(tmp_path / "cg", processes="1")
    slice_ = group(mount / "app.slice", gives="memory pids")
    own = group(slice_ / "run-1.scope", processes="4242")
    assert unified(mount, own) == cgroups.Available(str(slice_), frozenset({"memory", "pids"}), {})


def test_a_group_that_could_give_controllers_counts(tmp_path: Path) -> None:
    mount = group(tmp_path / "cg", processes="1")
    slice_ = group(mount / "app.slice", offers="memory pids cpu io")
    own = group(slice_ / "run-1.scope", processes="4242")
    assert unified(mount, own).unified_controllers == {"memory", "pids", "cpu"}


def test_nothing_is_offered_where_nothing_is_delegated(tmp_path: Path) -> None:
    mount = group(tmp_path / "cg", processes="1", gives="")
    own = group(mount / "init.scope", processes="4242")
    assert unified(mount, own) == cgroups.Available()


@pytest.mark.rootless
def test_a_folder_of_somebody_else_is_of_no_use(tmp_path: Path) -> None:
    mount = group(tmp_path / "cg", gives="memory pids")
    own = group(mount / "session-1.scope", processes="4242")
    mount.chmod(0o555)
    try:
        assert unified(mount, own) == cgroups.Available()
    finally:
        mount.chmod(0o755)


def test_the_trees_are_read_from_proc(tmp_path: Path) -> None:
    """Version 1 and 2 beside each other, two controllers in one tree, a container's view of a third."""
    (tmp_path / "cgroup").write_text(
        "5:cpu,cpuacct:/a b\n4:memory:/docker/123\n3:pids:/\n2:freezer:/x\n0::/user.slice\n"
    )
    (tmp_path / "mountinfo").write_text(
        "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n"
        "32 31 0:29 / /sys/fs/cgroup/cpu\\040x rw shared:3 - cgroup cgroup rw,cpu,cpuacct\n"
        "33 31 0:30 /docker/123 /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
        "34 31 0:31 /elsewhere /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids\n"
        "35 31 0:32 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"
    )
    found = {tree.mount: (tree.version, tree.own) for tree in cgroups.hierarchies(str(tmp_path))}
    assert found == {
        "/sys/fs/cgroup/cpu x": (1, "/sys/fs/cgroup/cpu x/a b"),
        "/sys/fs/cgroup/memory": (1, "/sys/fs/cgroup/memory"),
        "/sys/fs/cgroup/pids": (1, "/sys/fs/cgroup/pids"),
        "/sys/fs/cgroup/unified": (2, "/sys/fs/cgroup/unified/user.slice"),
    }


def test_without_proc_there_are_none(tmp_path: Path) -> None:
    assert cgroups.hierarchies(str(tmp_path / "missing")) == ()


def test_controllers_are_switched_on_before_a_group_is_made(tmp_path: Path) -> None:
    parent = group(tmp_path / "cg", gives="pids")
    # A folder of files has no kernel that would make the group's own; the first write is refused, then.
    with pytest.raises(OSError, match="writing '5'"):
        cgroups.make(f"{parent}/nsharness-x", 2, ("memory", "pids"), [("pids.max", "5")])
    assert (parent / "cgroup.subtree_control").read_text().startswith("+memory")
    assert not (parent / "nsharness-x").exists()


@pytest.mark.parametrize(
    ("release", "counts"),
    [
        ("5.13.19-2-pve", False),
        ("5.14.0-427.el9", True),
        ("6.18.44", True),
        ("4.19.0", False),
        ("odd", False),
    ],
)
def test_kernels_that_count_processes_for_each_namespace(release: str, counts: bool) -> None:
    assert cgroups.nproc_counts_namespaces(release) is counts


@pytest.mark.root
def test_a_group_is_made_entered_emptied_and_removed() -> None:
    """Really, in the tree of version 2, which needs no controller for that."""
    tree = next((tree for tree in cgroups.hierarchies() if tree.version == 2), None)
    if tree is None or not os.access(tree.own, os.W_OK):
        pytest.skip("no group of cgroup version 2 can be made here")
    path = f"{tree.own}/nsharness-test-{os.getpid()}.x"
    descriptor = cgroups.make(path, 2, (), [("cgroup.max.depth", "0")])
    program = f"import os, sys; os.write({descriptor}, b'0'); print(flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-I", "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        pass_fds=[descriptor],
    ) as process:
        os.close(descriptor)
        assert process.stdout is not None
        process.stdout.readline()
        assert cgroups.processes(path) == [process.pid]
        assert not cgroups.remove(path, 0.05)
        cgroups.kill(path)
        assert process.wait(10) == -9
    assert cgroups.remove(path)
    assert not Path(path).exists()


def test_removing_what_is_not_there_is_no_error(tmp_path: Path) -> None:
    assert cgroups.remove(str(tmp_path / "gone"))


def test_groups_are_found_by_name(tmp_path: Path) -> None:
    (tmp_path / "a" / "nsharness-1").mkdir(parents=True)
    (tmp_path / "nsharness-2").mkdir()
    (tmp_path / "other").mkdir()
    tree = Hierarchy(1, frozenset({"pids"}), str(tmp_path), str(tmp_path))
    assert sorted(cgroups.named("nsharness-", [tree])) == [
        f"{tmp_path}/a/nsharness-1",
        f"{tmp_path}/nsharness-2",
    ]
