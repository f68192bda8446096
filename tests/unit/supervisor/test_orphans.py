"""The dead are found by what they left, the living by their claim."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from nsharness.cli.gc import gc
from nsharness.cli.parser import parser
from nsharness.errors import NsharnessError
from nsharness.linux import cgroups
from nsharness.linux.identity import Identity, current
from nsharness.supervisor import claim as claims
from nsharness.supervisor import orphans
from nsharness.supervisor.claim import claim, claim_dead, release
from nsharness.supervisor.orphans import Orphan, collect
from nsharness.supervisor.state import RunDirectory, create_run
from tests.support.processes import alive
from tests.support.waiting import eventually


@pytest.fixture(autouse=True)
def state(short_tmp: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(short_tmp))
    return short_tmp


@pytest.fixture
def identity() -> Identity:
    return current()


@pytest.fixture
def run(identity: Identity) -> RunDirectory:
    return create_run(identity, "test")


def die(run: RunDirectory) -> None:
    """Leave a run the way SIGKILL does, with everything in its folder that can be there."""
    os.close(claim(run))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(run.control_path))
    os.close(run.open_audit())
    (run.path / ".result.json").write_text("{")


def names(run: RunDirectory) -> set[str]:
    return {entry.name for entry in run.path.iterdir()}


# --- claims -------------------------------------------------------------------------------------------------


def test_a_run_that_lives_is_not_dead(run: RunDirectory) -> None:
    descriptor = claim(run)
    assert claim_dead(run) is None
    release(run, descriptor)
    assert claim_dead(run) is None
    assert names(run) == set()


def test_a_run_without_a_claim_is_left_alone(run: RunDirectory) -> None:
    """It is being made, or has ended in order."""
    assert claim_dead(run) is None


def test_a_dead_run_is_claimed_by_one_at_a_time(run: RunDirectory) -> None:
    os.close(claim(run))
    descriptor = claim_dead(run)
    assert descriptor is not None
    assert claim_dead(run) is None
    os.close(descriptor)


def test_a_claim_is_not_handed_on(run: RunDirectory) -> None:
    descriptor = claim(run)
    with subprocess.Popen(["sleep", "600"], close_fds=False) as child:
        os.close(descriptor)
        found = claim_dead(run)
        child.kill()
    assert found is not None
    os.close(found)


def test_a_claim_that_is_just_being_made_is_none_of_a_dead_run(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    (run.path / "live.new").touch(0o600)
    assert claim_dead(run) is None
    monkeypatch.setattr(claims, "_age", lambda _: 61.0)
    descriptor = claim_dead(run)
    assert descriptor is not None
    os.close(descriptor)


def test_where_nothing_can_be_locked_is_said(run: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(NsharnessError, match=r"No locks available.*XDG_STATE_HOME"):
        claim(run)


# --- folders ------------------------------------------------------------------------------------------------


def test_everything_but_the_records_goes(run: RunDirectory, identity: Identity) -> None:
    die(run)
    before = names(run)
    shown = collect(identity, dry_run=True)
    assert names(run) == before
    done = collect(identity)
    assert [(each.kind, each.name) for each in done] == [
        ("file", "control"),
        ("file", ".result.json"),
        ("record", "result.json"),
        ("file", "live"),
    ]
    assert [(each.run, each.kind, each.name) for each in shown] == [
        (each.run, each.kind, each.name) for each in done
    ]
    assert all(each.gone for each in done)
    assert not any(each.gone for each in shown)
    assert names(run) == {"audit.jsonl", "result.json"}
    record = json.loads((run.path / "result.json").read_text())
    assert record == {"exit_code": 137, "error": "its supervisor was killed"}
    assert collect(identity) == []


def test_a_live_run_is_not_touched(run: RunDirectory, identity: Identity) -> None:
    die(run)
    (run.path / "live").unlink()
    descriptor = claim(run)
    before = names(run)
    assert collect(identity) == []
    assert names(run) == before
    os.close(descriptor)


def test_a_result_that_is_there_stays(run: RunDirectory, identity: Identity) -> None:
    die(run)
    run.write_result({"exit_code": 0})
    assert "record" not in {each.kind for each in collect(identity)}
    assert json.loads((run.path / "result.json").read_text()) == {"exit_code": 0}


def test_what_failed_is_done_again_the_next_time(
    run: RunDirectory, identity: Identity, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> bool:
        raise OSError(30, "Read-only file system")

    die(run)
    with monkeypatch.context() as patch:
        patch.setattr(orphans, "_unlink", refuse)
        patch.setattr(orphans, "_mark_ended", refuse)
        assert not any(each.gone for each in collect(identity))
        assert "live" in names(run)
    assert all(each.gone for each in collect(identity))


def test_a_link_in_the_place_of_the_socket_is_not_followed(
    run: RunDirectory, identity: Identity, tmp_path: Path
) -> None:
    target = tmp_path / "precious"
    target.write_text("kept")
    die(run)
    run.control_path.unlink()
    run.control_path.symlink_to(target)
    collect(identity)
    assert target.read_text() == "kept"
    assert "control" not in names(run)


# --- processes ----------------------------------------------------------------------------------------------


@pytest.fixture
def helper() -> Iterator[list[subprocess.Popen[bytes]]]:
    started: list[subprocess.Popen[bytes]] = []
    yield started
    for process in started:
        process.kill()
        process.communicate()


def start(helper: list[subprocess.Popen[bytes]], *options: str) -> subprocess.Popen[bytes]:
    program = "import sys; print(flush=True); sys.stdin.read()"
    process = subprocess.Popen(
        [sys.executable, "-I", *options, "-c", program, "nsharness-run=test"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    helper.append(process)
    assert process.stdout is not None
    process.stdout.readline()
    return process


def test_processes_of_dead_runs_are_ended_and_no_others(
    run: RunDirectory, identity: Identity, helper: list[subprocess.Popen[bytes]]
) -> None:
    living = create_run(identity, "test")
    descriptor = claim(living)
    die(run)
    orphan = start(helper, "-X", f"nsharness-run={run.id}")
    others = [
        start(helper, "-X", f"nsharness-run={living.id}"),
        start(helper, "-X", f"nsharness-run={run.id}0"),
        start(helper, "-W", f"ignore:nsharness-run={run.id}"),
    ]
    shown = collect(identity, dry_run=True)
    assert [each.name for each in shown if each.kind == "process"] == [str(orphan.pid)]
    assert alive(orphan.pid)
    collect(identity)
    eventually(lambda: not alive(orphan.pid))
    assert all(alive(other.pid) for other in others)
    release(living, descriptor)


# --- control groups -----------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def tree(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """In the place of the control groups' tree: its folders are removed in the same way."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        found = cgroups.Hierarchy(1, frozenset({"pids"}), name, name)
        monkeypatch.setattr(cgroups, "hierarchies", lambda: (found,))
        monkeypatch.setattr(cgroups, "processes", lambda _: [])
        yield folder


def test_control_groups_of_dead_runs_are_removed(run: RunDirectory, identity: Identity, tree: Path) -> None:
    die(run)
    living = create_run(identity, "test")
    descriptor = claim(living)
    for name in (f"{run.id}.1", f"{run.id}.2", f"{living.id}.1", "other-0123.1"):
        (tree / f"nsharness-{name}").mkdir()
    gone = [Path(each.name).name for each in collect(identity) if each.kind == "group"]
    assert gone == [f"nsharness-{run.id}.1", f"nsharness-{run.id}.2"]
    # Of a run that nobody knows, and made just now: it may belong to one that another user starts.
    assert sorted(path.name for path in tree.iterdir()) == [
        f"nsharness-{name}" for name in sorted([f"{living.id}.1", "other-0123.1"])
    ]
    release(living, descriptor)


def test_an_old_and_empty_group_of_a_run_that_has_ended_goes_too(
    run: RunDirectory, identity: Identity, tree: Path
) -> None:
    """A run through sudo whose claim its user has cleared away, who may not remove root's groups."""
    group = tree / f"nsharness-{run.id}.1"
    group.mkdir()
    os.utime(group, (1, 1))
    descriptor = claim(run)
    assert collect(identity) == []
    release(run, descriptor)
    assert [each.gone for each in collect(identity)] == [True]


def test_an_old_and_empty_group_of_nobody_goes_too(identity: Identity, tree: Path) -> None:
    group = tree / "nsharness-other-0123.1"
    group.mkdir()
    os.utime(group, (1, 1))
    assert collect(identity, everything=False) == []
    assert [each.gone for each in collect(identity)] == [True]
    assert not group.exists()


def test_a_group_with_processes_of_somebody_else_is_kept(
    run: RunDirectory, identity: Identity, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever owns the folder of runs can make one with any id; root must not be used against others."""
    die(run)
    (tree / f"nsharness-{run.id}.1").mkdir()
    monkeypatch.setattr(cgroups, "processes", lambda _: [1, os.getpid()])
    monkeypatch.setattr(orphans, "_uid", lambda pid: 0 if pid == 1 else 4242)
    monkeypatch.setattr(cgroups, "kill", lambda _: pytest.fail("it was killed"))
    user = Identity(False, 4242, 4242, "user", Path("/"), 4242, 4242)
    assert not orphans._holds_only(str(tree), user)
    assert orphans._holds_only(str(tree), Identity(True, 0, 0, "root", Path("/"), 4242, 4242))


def command(*options: str) -> int:
    """Without the frame around it, which takes the process's signals."""
    return gc(parser().parse_args(["gc", *options]))


# --- the command --------------------------------------------------------------------------------------------


def test_the_command_shows_and_does_it(run: RunDirectory, capsys: pytest.CaptureFixture[str]) -> None:
    die(run)
    assert command("--dry-run", "--json") == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown[0] == {"run": run.id, "kind": "file", "name": "control", "gone": False}
    assert command() == 0
    out = capsys.readouterr().out
    assert f"removed file control of run {run.id}\n" in out
    assert f"marked as ended run {run.id}\n" in out
    assert command() == 0
    assert capsys.readouterr().out == "nothing was left behind\n"


def test_what_cannot_be_removed_is_a_failure(
    run: RunDirectory, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    die(run)
    monkeypatch.setattr(orphans, "_unlink", lambda *_: False)
    assert command() == 1
    assert f"cannot remove file control of run {run.id}" in capsys.readouterr().out


def test_an_orphan_says_what_it_is() -> None:
    assert Orphan("r", "group", "/x").describe() == "control group /x of run r"
