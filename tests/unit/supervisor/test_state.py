"""Run directories: whose they are, who may look in, and how they are found again."""

from __future__ import annotations

import json
import os
import socket
import stat
from pathlib import Path

import pytest

from nsharness.errors import NsharnessError
from nsharness.linux.identity import Identity
from nsharness.supervisor import state

UID, GID = os.geteuid(), os.getegid()


def person(home: Path, uid: int = UID) -> Identity:
    return Identity(UID == 0, uid, GID, "ada", home, uid or 4711, GID or 4711)


@pytest.fixture
def ada(tmp_path: Path) -> Identity:
    return person(tmp_path)


def create(identity: Identity, name: str = "run") -> state.RunDirectory:
    return state.create_run(identity, name, {})


def find(identity: Identity, text: str) -> state.RunDirectory:
    return state.find_run(identity, text, {})


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def test_state_is_below_the_home_unless_an_absolute_path_is_configured(ada: Identity) -> None:
    assert state.state_home(ada, {}) == ada.home / ".local/state/nsharness"
    assert state.state_home(ada, {"XDG_STATE_HOME": "/x"}) == Path("/x/nsharness")
    # The XDG specification: a relative path is to be ignored.
    assert state.state_home(ada, {"XDG_STATE_HOME": "x"}) == ada.home / ".local/state/nsharness"


def test_a_run_has_a_folder_that_nobody_else_looks_into(ada: Identity) -> None:
    run = create(ada)
    assert mode(run.path) == 0o700
    assert mode(run.path.parent) == 0o700
    assert run.path == ada.home / ".local/state/nsharness/runs" / run.id


def test_an_id_is_the_name_and_48_random_bits(ada: Identity) -> None:
    ids = {create(ada).id for _ in range(50)}
    assert len(ids) == 50
    for identifier in ids:
        name, _, bits = identifier.rpartition("-")
        assert name == "run"
        assert len(bits) == 12
        assert int(bits, 16) >= 0


def test_a_folder_that_is_there_already_is_never_used(ada: Identity, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = create(ada)
    answers = [taken.id.rpartition("-")[2], "0" * 12]
    monkeypatch.setattr(os, "urandom", lambda _: bytes.fromhex(answers.pop(0)))
    assert create(ada).id == "run-" + "0" * 12
    assert not answers


@pytest.mark.parametrize("bits", [0o002, 0o020, 0o777])
@pytest.mark.parametrize("which", ["nsharness", "nsharness/runs"])
def test_a_directory_that_others_may_write_to_is_refused(ada: Identity, which: str, bits: int) -> None:
    path = ada.home / ".local/state" / which
    path.mkdir(parents=True)
    path.chmod(0o700 | bits)
    with pytest.raises(NsharnessError, match="private directory"):
        create(ada)


@pytest.mark.parametrize("which", ["nsharness", "nsharness/runs"])
def test_a_link_in_place_of_the_directory_is_refused(ada: Identity, tmp_path: Path, which: str) -> None:
    """K23."""
    (tmp_path / "elsewhere" / "runs").mkdir(parents=True, mode=0o700)
    path = ada.home / ".local/state" / which
    path.parent.mkdir(parents=True)
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(NsharnessError, match="private directory"):
        create(ada)


@pytest.mark.root
@pytest.mark.parametrize("which", ["nsharness", "nsharness/runs"])
def test_a_directory_of_somebody_else_is_refused(ada: Identity, which: str) -> None:
    path = ada.home / ".local/state" / which
    path.mkdir(parents=True, mode=0o700)
    os.chown(path, 4711, 4711)
    with pytest.raises(NsharnessError, match="private directory"):
        create(ada)


@pytest.mark.root
def test_under_sudo_everything_belongs_to_the_invoking_user(short_tmp: Path) -> None:
    short_tmp.chmod(0o755)
    home = short_tmp / "home"
    home.mkdir()
    os.chown(home, 4711, 4711)
    run = create(Identity(True, 4711, 4711, "ada", home, 4711, 4711))
    os.close(run.open_audit())
    run.write_result({})
    assert {path.lstat().st_uid for path in [run.path, run.path.parent, *run.path.iterdir()]} == {4711}


@pytest.mark.root
def test_under_sudo_roots_rights_do_not_help(short_tmp: Path) -> None:
    """A link planted by the user leads root nowhere that the user could not go."""
    short_tmp.chmod(0o755)
    secret = short_tmp / "secret"
    secret.mkdir(mode=0o700)
    identity = Identity(True, 4711, 4711, "ada", secret, 4711, 4711)
    with pytest.raises(NsharnessError, match="Permission denied"):
        create(identity)


def test_a_place_that_cannot_be_written_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / ".local").write_text("a file")
    with pytest.raises(NsharnessError, match="cannot make a run directory") as raised:
        create(person(tmp_path))
    assert "XDG_STATE_HOME" in raised.value.hint


def test_runs_are_listed_oldest_first_and_only_directories(ada: Identity) -> None:
    runs = [create(ada, name) for name in ("b", "a", "c")]
    for age, run in enumerate(runs):
        os.utime(run.path, ns=(age, age))
    (runs[0].path.parent / "file").write_text("x")
    (runs[0].path.parent / "link").symlink_to(runs[0].path)
    assert [run.id for run in state.list_runs(ada, {})] == [run.id for run in runs]


def test_without_a_state_directory_there_are_no_runs(ada: Identity) -> None:
    assert state.list_runs(ada, {}) == []


def test_a_run_is_found_by_its_id_and_by_how_it_begins(ada: Identity) -> None:
    run, other = create(ada, "one"), create(ada, "two")
    assert find(ada, run.id).path == run.path
    assert find(ada, "two").path == other.path


def test_a_beginning_of_several_names_none(ada: Identity) -> None:
    create(ada)
    create(ada)
    with pytest.raises(NsharnessError, match="2 runs"):
        find(ada, "run-")


def test_an_id_that_is_also_a_beginning_names_that_run(ada: Identity) -> None:
    run = create(ada)
    longer = run.path.with_name(run.id + "0")
    longer.mkdir()
    assert find(ada, run.id).path == run.path


@pytest.mark.parametrize("text", ["", "absent", "..", "../runs", "/", "*"])
def test_what_is_no_run_is_not_found(ada: Identity, text: str) -> None:
    create(ada)
    create(ada)
    with pytest.raises(NsharnessError, match="no run"):
        find(ada, text)


def test_the_audit_log_is_appended_to_and_private(ada: Identity) -> None:
    run = create(ada)
    for line in (b"1\n", b"2\n"):
        descriptor = run.open_audit()
        os.write(descriptor, line)
        os.close(descriptor)
    assert (run.path / "audit.jsonl").read_bytes() == b"1\n2\n"
    assert mode(run.path / "audit.jsonl") == 0o600


def test_the_audit_log_is_not_opened_through_a_link(ada: Identity, tmp_path: Path) -> None:
    run = create(ada)
    (tmp_path / "victim").write_text("")
    (run.path / "audit.jsonl").symlink_to(tmp_path / "victim")
    with pytest.raises(OSError, match="symbolic links"):
        run.open_audit()


def test_a_result_is_there_as_a_whole(ada: Identity) -> None:
    run = create(ada)
    run.write_result({"exit_code": 1})
    run.write_result({"exit_code": 0, "answer": "größer"})
    assert json.loads((run.path / "result.json").read_text(encoding="utf-8")) == {
        "exit_code": 0,
        "answer": "größer",
    }
    assert mode(run.path / "result.json") == 0o600
    assert [path.name for path in run.path.iterdir()] == ["result.json"]


def test_a_socket_fits_where_the_control_path_is(short_tmp: Path) -> None:
    run = create(person(short_tmp))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{run.control_path}")
    assert run.control_path.name == "control"
