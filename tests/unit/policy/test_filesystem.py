"""[filesystem] as it is written: paths, globs, and where relative ones lead."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from nsharness.cli import main
from nsharness.plan.steps import Bind, Plan
from nsharness.policy.load import load_profile
from nsharness.policy.profile import Profile


def test_relative_paths_are_relative_to_the_file_and_a_tilde_stays(tmp_path: Path) -> None:
    (tmp_path / "p.toml").write_text(
        '[filesystem]\nworkspace = "."\nread_only = ["../x", "~/y", "/z/../w"]\nread_write = ["a/b"]\n'
    )
    files = load_profile(tmp_path / "p.toml").files
    assert files.workspace == str(tmp_path)
    assert files.read_only == (str(tmp_path.parent / "x"), "~/y", "/w")
    assert files.read_write == (str(tmp_path / "a/b"),)


def test_the_short_form_is_a_writable_workspace() -> None:
    files = Profile(name="p", workspace="/srv/x").files
    assert (files.workspace, files.workspace_mode) == ("/srv/x", "rw")


@pytest.mark.parametrize(
    "wrong",
    [
        {"workspace": ""},
        {"workspace": "~other/x"},
        {"workspace": "/a\nb"},
        {"workspace_mode": "w"},
        {"hide": ["/etc/x"]},
        {"hide": ["../x"]},
        {"hide": ["/"]},
        {"hide": ["a", "a"]},
        {"hide": None},
        {"protect": ["/abs"]},
        {"protect": ["a/../b"]},
        {"size": "much"},
        {"writable": ["/x"]},
    ],
    ids=str,
)
def test_what_makes_no_sense_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Profile.model_validate({"name": "p", "filesystem": wrong})


def test_a_workspace_is_named_once() -> None:
    with pytest.raises(ValidationError, match="named there"):
        Profile.model_validate({"name": "p", "workspace": "/a", "filesystem": {"workspace": "/b"}})


def test_the_command_shows_the_plan_as_text_and_as_what_pid_1_reads(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("signal.signal", lambda *_: None)
    work = tmp_path / "work"
    work.mkdir()
    (tmp_path / "link").symlink_to(work)
    (tmp_path / "p.toml").write_text('[filesystem]\nworkspace = "link"\n')
    assert main(["plan", "--profile", str(tmp_path / "p.toml"), "--json"]) == 0
    plan = Plan.from_json(capsys.readouterr().out)
    assert Bind(str(work), str(work), writable=True) in plan.steps
    assert main(["plan", "--profile", str(tmp_path / "p.toml")]) == 0
    assert f"resolved   {tmp_path}/link is {work}\n" in capsys.readouterr().out
