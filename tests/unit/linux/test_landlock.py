"""Landlock for real, in a child that is thrown away, and its bits for kernels that we do not have here."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from nsharness.linux import landlock, libc, process
from nsharness.linux.chain import attempt
from nsharness.plan.access import Grant

needs_landlock = pytest.mark.kernel("landlock")


def under(*grants: Grant, then: Callable[[], object]) -> str:
    """What ``then`` gives in a restricted child; the errno's name when it fails."""

    def act() -> str:
        process.set_no_new_privs()
        rules = landlock.ruleset()
        if rules is None:
            return "not restricted"
        for one in grants:  # In parts, as a sandbox's are.
            rules.allow([one])
        rules.restrict()
        try:
            return str(then())
        except OSError as error:
            return errno.errorcode[error.errno or 0]

    outcome = attempt([("act", act)])
    return outcome.detail or outcome.why


def grant(path: Path | str, *rights: str) -> Grant:
    return Grant(str(path), frozenset(rights))  # type: ignore[arg-type]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("open", "closed"):
        (tmp_path / name / "sub").mkdir(parents=True)
        (tmp_path / name / "file").write_text("content")
    (tmp_path / "program").write_text("#!/bin/sh\n")
    (tmp_path / "program").chmod(0o755)
    return tmp_path


@needs_landlock
@pytest.mark.root
def test_even_root_reads_and_writes_only_what_is_granted(folder: Path) -> None:
    given = (grant("/", "read"), grant(folder / "open", "write", "make"))
    assert under(*given, then=(folder / "closed/file").read_text) == "content"
    for name, expected in (("open", "1"), ("closed", "EACCES")):
        assert under(*given, then=lambda name=name: (folder / name / "file").write_text("x")) == expected  # type: ignore[misc]
        made = folder / name / "new"
        assert under(*given, then=lambda made=made: made.write_text("x")) == expected  # type: ignore[misc]


@needs_landlock
def test_what_is_granted_for_a_folder_is_for_everything_below(folder: Path) -> None:
    given = (grant("/", "read"), grant(folder / "open", "write", "make"))
    assert under(*given, then=lambda: (folder / "open/sub/new").mkdir()) == "None"
    assert under(*given, then=lambda: (folder / "open/file").rename(folder / "open/sub/file")).endswith(
        "/file"
    )
    assert under(*given, then=lambda: (folder / "open/sub/file").rename(folder / "closed/x")) in (
        "EACCES",
        "EXDEV",
    )
    assert under(*given, then=lambda: os.truncate(folder / "closed/file", 0)) == "EACCES"


@needs_landlock
def test_nothing_granted_is_nothing_allowed(folder: Path) -> None:
    assert under(then=lambda: list(folder.iterdir())) == "EACCES"
    assert under(then=(folder / "open/file").read_text) == "EACCES"


@needs_landlock
def test_programs_are_executed_where_it_is_granted(folder: Path) -> None:
    run = lambda: os.posix_spawn(folder / "program", ["program"], {}) > 0  # noqa: E731
    assert under(grant("/", "read"), then=run) == "EACCES"
    assert under(grant("/", "read", "execute"), then=run) == "True"


@needs_landlock
def test_a_grant_for_a_file_is_for_that_file(folder: Path) -> None:
    given = (grant("/", "read"), grant(folder / "open/file", "write", "make", "device"))
    assert under(*given, then=lambda: (folder / "open/file").write_text("x")) == "1"
    assert under(*given, then=(folder / "open/file").unlink) == "EACCES"


@needs_landlock
def test_no_device_file_is_made_where_everything_else_may_be(folder: Path) -> None:
    """One with the number 0:0 anybody may make; in an overlay it says that a file is gone."""
    given = (grant("/", "read"), grant(folder / "open", "write", "make"))
    assert under(*given, then=lambda: os.mknod(folder / "open/dev", 0o020644, 0)) == "EACCES"
    assert under(*given, then=lambda: os.mkfifo(folder / "open/fifo")) == "None"


@needs_landlock
def test_a_path_that_is_not_there_needs_no_grant(folder: Path) -> None:
    given = (grant(folder / "absent", "write"), grant("/", "read"))
    assert under(*given, then=(folder / "open/file").read_text) == "content"


@needs_landlock
def test_paths_may_be_those_of_a_root_that_is_elsewhere(folder: Path) -> None:
    def act() -> str:
        process.set_no_new_privs()
        rules = landlock.ruleset()
        assert rules is not None
        rules.allow([grant("/open", "read"), grant("/absent", "read")], str(folder))
        rules.restrict()
        text = (folder / "open/file").read_text()
        try:
            list(folder.iterdir())
        except PermissionError:
            return text
        return "too much"

    outcome = attempt([("act", act)])
    assert (outcome.detail or outcome.why) == "content"


@needs_landlock
def test_abstract_sockets_and_signals_stay_inside(folder: Path) -> None:
    if landlock.version() < 6:
        pytest.skip("this kernel's Landlock has no scopes")
    name = f"\0nsharness-test-{os.getpid()}"
    parent = os.getpid()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(name)
        server.listen()
        assert under(grant("/", "read"), then=lambda: socket.socket(socket.AF_UNIX).connect(name)) == "EPERM"
        assert under(grant("/", "read"), then=lambda: os.kill(parent, 0)) == "EPERM"
        assert under(grant("/", "read"), then=lambda: os.kill(os.getpid(), 0)) == "None"


@pytest.mark.parametrize("abi", [0, 1])
def test_a_kernel_with_none_or_with_the_first_version_goes_on(
    abi: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def version(*_: object) -> int:
        if not abi:
            raise OSError(errno.EOPNOTSUPP, "disabled")
        return abi

    monkeypatch.setattr(libc, "syscall", version)
    assert landlock.ruleset() is None


def test_a_kernel_is_only_asked_for_what_it_knows() -> None:
    everything = ("read", "execute", "write", "make", "device")
    assert [landlock.handled(abi) for abi in (2, 3, 4, 5, 6, 7)] == [
        *(0x3FFF, 0x7FFF, 0x7FFF, 0xFFFF, 0xFFFF, 0xFFFF)
    ]
    for abi in (2, 3, 5):
        assert landlock.bits(everything, abi, directory=True) & ~landlock.handled(abi) == 0
    of_files = landlock.EXECUTE | landlock.WRITE_FILE | landlock.READ_FILE | landlock.TRUNCATE
    assert landlock.bits(everything, 3, directory=False) == of_files
