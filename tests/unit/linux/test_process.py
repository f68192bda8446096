"""Who a process is, tried in forked children so that this one stays what it is."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable
from pathlib import Path

import pytest

from nsharness.linux import process
from tests.support.forked import in_child


def status(name: str) -> str:
    lines = Path("/proc/thread-self/status").read_text().splitlines()
    return next(line.split(":", 1)[1].strip() for line in lines if line.startswith(name + ":"))


def test_an_undumpable_process_belongs_to_root_and_leaves_no_core() -> None:
    def action() -> object:
        process.make_undumpable()
        return Path("/proc/self/environ").stat().st_uid, resource.getrlimit(resource.RLIMIT_CORE)

    assert in_child(action) == [0, [0, 0]]


def test_without_capabilities_every_set_is_empty() -> None:
    def action() -> object:
        process.set_capabilities()
        return [status(f"Cap{kind}") for kind in ("Inh", "Prm", "Eff", "Amb")]

    assert in_child(action) == ["0" * 16] * 4


@pytest.mark.root
def test_exactly_the_kept_capabilities_are_left() -> None:
    def action() -> object:
        process.limit_bounding_set(frozenset({process.CAP_SYS_ADMIN}))
        process.set_capabilities(frozenset({process.CAP_SYS_ADMIN, process.CAP_NET_ADMIN}))
        return [int(status(f"Cap{kind}"), 16) for kind in ("Prm", "Eff", "Bnd", "Inh")]

    both = 1 << process.CAP_SYS_ADMIN | 1 << process.CAP_NET_ADMIN
    assert in_child(action) == [both, both, 1 << process.CAP_SYS_ADMIN, 0]


def test_no_new_privileges_cannot_be_undone() -> None:
    def action() -> object:
        process.set_no_new_privs()
        return status("NoNewPrivs")

    assert in_child(action) == "1"


@pytest.mark.rootless
def test_an_ordinary_user_becomes_nobody_else() -> None:
    with pytest.raises(PermissionError):
        process.become(os.getuid() + 1, os.getgid())


@pytest.mark.root
def test_becoming_a_user_leaves_no_way_back() -> None:
    def action() -> object:
        os.setgroups([0, 4])
        process.become(4711, 4712)
        back = []
        calls: list[Callable[[], None]] = [
            lambda: os.setuid(0),
            lambda: os.setgid(0),
            lambda: os.setgroups([0]),
        ]
        for call in calls:
            try:
                call()
            except PermissionError:
                back.append("refused")
        return os.getresuid(), os.getresgid(), os.getgroups(), status("CapPrm"), back

    assert in_child(action) == [[4711] * 3, [4712] * 3, [], "0" * 16, ["refused"] * 3]


@pytest.fixture
def guarded(tmp_path: Path) -> Callable[[int, int, int], Path]:
    """A file in a folder with the given owner, group and mode; everything above it is open to all."""

    def make(uid: int, gid: int, mode: int) -> Path:
        for folder in (tmp_path, *tmp_path.parents[:3]):
            if folder.stat().st_uid == os.getuid() and folder != Path("/"):
                folder.chmod(folder.stat().st_mode | 0o055)
        folder = tmp_path / "guarded"
        folder.mkdir()
        (folder / "file").write_text("content")
        os.chown(folder, uid, gid)
        folder.chmod(mode)
        return folder / "file"

    return make


def can_read(path: Path, uid: int, gid: int) -> bool:
    with process.file_access_as(uid, gid):
        try:
            path.read_text()
        except PermissionError:
            return False
        return True


@pytest.mark.root
@pytest.mark.parametrize(
    ("owner", "group", "mode", "allowed"),
    [
        (0, 0, 0o700, False),
        (0, 0, 0o750, False),
        (4711, 0, 0o700, True),
        (0, 4712, 0o750, True),
        (0, 0, 0o755, True),
    ],
)
def test_files_are_reached_exactly_as_that_user_reaches_them(
    guarded: Callable[[int, int, int], Path], owner: int, group: int, mode: int, allowed: bool
) -> None:
    """Also when root is in group 0, as it is after a login or under sudo."""
    path = guarded(owner, group, mode)

    def action() -> object:
        os.setgroups([0])
        return can_read(path, 4711, 4712), os.getgroups()

    assert in_child(action) == [allowed, [0]]


@pytest.mark.root
def test_files_made_meanwhile_belong_to_that_user_and_later_ones_to_root(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    with process.file_access_as(4711, 4712):
        (tmp_path / "theirs").touch()
    (tmp_path / "ours").touch()
    assert [
        ((tmp_path / name).stat().st_uid, (tmp_path / name).stat().st_gid) for name in ("theirs", "ours")
    ] == [
        (4711, 4712),
        (0, 0),
    ]


@pytest.mark.root
def test_a_change_of_file_access_that_is_not_allowed_is_an_error() -> None:
    """K12: without CAP_SETUID the calls do nothing and report nothing."""

    def action() -> object:
        process.set_capabilities()
        try:
            with process.file_access_as(4711, 4712):
                return "entered"
        except PermissionError:
            return "refused"

    assert in_child(action) == "refused"


def test_as_oneself_file_access_does_not_change(tmp_path: Path) -> None:
    with process.file_access_as(os.geteuid(), os.getegid()):
        (tmp_path / "mine").touch()
    assert (tmp_path / "mine").stat().st_uid == os.geteuid()
