"""An answer is written to a profile of the user's own, whole or not at all, and to no other file."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from nsharness.errors import NsharnessError
from nsharness.linux.identity import current
from nsharness.supervisor.amend import ProfileFile

TEXT = '# mine\nname = "mine"  # kept\n'


@pytest.fixture
def profile(tmp_path: Path) -> Path:
    path = tmp_path / "profile.toml"
    path.write_text(TEXT)
    path.chmod(0o640)
    return path


def test_the_rest_of_the_file_its_mode_and_its_links_stay(profile: Path, tmp_path: Path) -> None:
    link = tmp_path / "link.toml"
    link.symlink_to(profile)
    ProfileFile.at(link, current()).add("a.example")
    ProfileFile.at(link, current()).add("b.example")
    text = profile.read_text()
    assert text.startswith(TEXT)
    assert text.index('["a.example"]') < text.index('["b.example"]')
    assert stat.S_IMODE(profile.stat().st_mode) == 0o640
    assert link.is_symlink()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link.toml", "profile.toml"]


def test_a_link_that_leads_elsewhere_by_now_leads_to_nothing(profile: Path, tmp_path: Path) -> None:
    """The workload changes a link in a folder of its own: another profile would get the rule."""
    work = tmp_path / "work"
    work.mkdir()
    link = work / "nsharness.toml"
    link.symlink_to(profile)
    file = ProfileFile.at(link, current(), [work])
    other = tmp_path / "other.toml"
    other.write_text(TEXT)
    link.unlink()
    link.symlink_to(other)
    file.add("a.example")
    assert other.read_text() == TEXT
    assert "a.example" in profile.read_text()
    # Whoever looked where the path leads now would have written there.
    ProfileFile(Path(os.path.realpath(link)), current(), [work]).add("a.example")
    assert "a.example" in other.read_text()


@pytest.mark.parametrize("what", ["shared", "itself shared", "no profile", "gone", "a link now", "a folder"])
def test_what_must_not_or_cannot_be_written_is_as_it_was(profile: Path, tmp_path: Path, what: str) -> None:
    shared = {"shared": [tmp_path], "itself shared": [profile]}.get(what, [])
    file = ProfileFile.at(profile, current(), shared)
    if what == "no profile":
        profile.write_text("nonsense")
    elif what in ("gone", "a link now", "a folder"):
        profile.unlink()
    if what == "a link now":
        (tmp_path / "victim").write_text(TEXT)
        profile.symlink_to(tmp_path / "victim")
    elif what == "a folder":
        profile.mkdir()
    before = {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    with pytest.raises(NsharnessError, match="profile"):
        file.add("a.example")
    assert {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before
