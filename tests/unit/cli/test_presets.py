"""``nsharness presets``, ``nsharness init``, and ``--preset`` with a mistake: processes of their own."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from nsharness.cli import presets
from nsharness.linux.identity import current
from nsharness.policy.load import digest_of, load, load_profile
from nsharness.presets.catalogue import names
from nsharness.supervisor.trust import TrustStore
from tests.support.program import Program


@pytest.fixture
def program(tmp_path: Path) -> Program:
    return Program(tmp_path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "My Work"
    made.mkdir()
    return made


def test_presets_are_listed_a_line_each(program: Program) -> None:
    done = program("presets")
    assert [line.split()[0] for line in done.stdout.splitlines()] == names()
    assert done.stderr == ""


def test_a_new_profile_is_valid_trusted_and_says_what_to_store(program: Program, folder: Path) -> None:
    done = program("init", "--preset", "claude-code", "--preset", "github", cwd=folder)
    assert done.returncode == 0, done
    assert "nsharness secret set anthropic --key key" in done.stdout
    path = folder / "nsharness.toml"
    assert load_profile(path).name == "my-work"
    assert path.stat().st_mode & 0o777 == 0o644
    assert program("check", cwd=folder).returncode == 0
    # Nobody has to trust what they have just asked for: what is missing is a secret.
    told = program("exec", "--", "true", cwd=folder)
    assert "secret" in told.stderr
    assert "trusted" not in told.stderr


def test_a_profile_that_is_there_stays(program: Program, folder: Path) -> None:
    path = folder / "nsharness.toml"
    for make in (lambda: path.write_text("mine"), lambda: path.symlink_to("elsewhere")):
        path.unlink(missing_ok=True)
        make()
        done = program("init", cwd=folder)
        assert (done.returncode, done.stderr.count("\n")) == (125, 1)
        assert "is there already" in done.stderr
    assert not (folder / "elsewhere").exists()


def test_what_somebody_put_in_its_place_is_not_trusted(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A workload that the folder is shared with waits for the file, and exchanges it before it is trusted."""
    monkeypatch.chdir(folder)
    writing = presets._write

    def exchanged(path: Path, text: str) -> None:
        writing(path, text)
        path.write_text(text + "# and something of theirs\n")

    monkeypatch.setattr(presets, "_write", exchanged)
    assert presets.init(argparse.Namespace(preset=[])) == 0
    theirs, ours = ((folder / "nsharness.toml").read_text(), TrustStore(current()))
    assert not ours.is_trusted(folder / "nsharness.toml", digest_of(theirs))
    monkeypatch.setattr(presets, "_write", writing)
    (folder / "nsharness.toml").unlink()
    assert presets.init(argparse.Namespace(preset=[])) == 0
    assert ours.is_trusted(folder / "nsharness.toml", load(folder / "nsharness.toml").digest)


@pytest.mark.parametrize("command", [["init"], ["exec"]])
def test_a_wrong_preset_is_one_line_and_nothing_is_made(
    program: Program, folder: Path, command: list[str]
) -> None:
    after = ["--no-workspace", "--", "true"] if command == ["exec"] else []
    done = program(*command, "--preset", "githbu", *after, cwd=folder)
    assert (done.returncode, done.stdout) == (125, "")
    assert done.stderr == "nsharness: unknown preset 'githbu' (did you mean github?)\n"
    assert list(folder.iterdir()) == []
