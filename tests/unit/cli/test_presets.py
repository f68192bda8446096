"""``nsharness presets``, ``nsharness init``, and ``--preset`` with a mistake: processes of their own."""

from __future__ import annotations

from pathlib import Path

import pytest

from nsharness.policy.load import load_profile
from nsharness.presets.catalogue import names
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


@pytest.mark.parametrize("command", [["init"], ["exec"]])
def test_a_wrong_preset_is_one_line_and_nothing_is_made(
    program: Program, folder: Path, command: list[str]
) -> None:
    after = ["--no-workspace", "--", "true"] if command == ["exec"] else []
    done = program(*command, "--preset", "githbu", *after, cwd=folder)
    assert (done.returncode, done.stdout) == (125, "")
    assert done.stderr == "nsharness: unknown preset 'githbu' (did you mean github?)\n"
    assert list(folder.iterdir()) == []
