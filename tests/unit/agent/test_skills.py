"""A model that names files: it reads the skills, and nothing else."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nsharness.agent import skills
from nsharness.agent.skills import MAX_READ, SkillError, SkillFolder, front_matter
from nsharness.errors import NsharnessError

SKILL = "---\nname: one\ndescription: Do one thing: well.\n---\n# One\n"
OUTSIDE = "nobody may read this"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder of skills, with something outside of it that is worth reading."""
    (tmp_path / "outside.md").write_text(OUTSIDE)
    folder = tmp_path / "skills"
    (folder / "one" / "notes").mkdir(parents=True)
    (folder / "one" / "SKILL.md").write_text(SKILL)
    (folder / "one" / "notes" / "more.md").write_text("more\nneedle here\n")
    return folder


def test_skills_are_listed_by_name_with_their_description(root: Path) -> None:
    (root / "another").mkdir()
    (root / "another" / "SKILL.md").write_text("no front matter")
    (root / "empty").mkdir()
    (root / "README.md").write_text("not a skill")
    listed = [(skill.name, skill.description) for skill in SkillFolder(root).skills()]
    assert listed == [("another", ""), ("one", "Do one thing: well.")]


def test_a_skill_that_cannot_be_read_is_listed_as_such(root: Path) -> None:
    """K12: nothing disappears in silence."""
    (root / "linked").mkdir()
    (root / "linked" / "SKILL.md").symlink_to(root / "one" / "SKILL.md")
    (skill,) = [skill for skill in SkillFolder(root).skills() if skill.name == "linked"]
    assert skill.description.startswith("unusable: ")


def test_files_below_a_skill_can_be_read(root: Path) -> None:
    folder = SkillFolder(root)
    assert folder.read("one").text == SKILL
    assert folder.read("one", "notes/more.md").text.startswith("more")


@pytest.mark.parametrize(
    ("skill", "path"),
    [
        ("..", "outside.md"),
        ("one", "../../outside.md"),
        ("one", "notes/../../../outside.md"),
        ("one/../..", "outside.md"),
        ("one", "/etc/passwd"),
        ("/etc", "passwd"),
        ("", "one/SKILL.md"),
        (".", "one/SKILL.md"),
        ("one", ""),
        ("one", "."),
        ("one", "notes"),
        ("one", "notes/"),
        ("one", "notes//more.md"),
        ("one", "./SKILL.md"),
        ("one", "SKILL.md\0.png"),
        ("one\0", "SKILL.md"),
        ("one", "\ud800"),
        ("one", "x" * 300),
        ("one", "/".join(["x"] * 500)),
        ("one", "SKILL.md/"),
        ("one", "SKILL.md/x"),
        ("one", "nothing.md"),
        ("two", "SKILL.md"),
    ],
)
def test_no_name_leads_out_of_the_folder(root: Path, skill: str, path: str) -> None:
    """K23."""
    with pytest.raises(SkillError):
        SkillFolder(root).read(skill, path)


@pytest.mark.parametrize("target", ["../../outside.md", "/etc/passwd", "SKILL.md", "/proc/self/environ"])
def test_a_symbolic_link_is_never_followed(root: Path, target: str) -> None:
    """K23: not even one that stays inside, so there is nothing to get wrong."""
    (root / "one" / "link.md").symlink_to(target)
    (root / "one" / "folder").symlink_to(root.parent)
    (root / "linked").symlink_to(root.parent)
    folder = SkillFolder(root)
    for skill, path in [("one", "link.md"), ("one", "folder/outside.md"), ("linked", "outside.md")]:
        with pytest.raises(SkillError):
            folder.read(skill, path)
    assert [skill.name for skill in folder.skills()] == ["one"]
    assert folder.search(OUTSIDE) == []


def test_a_fifo_a_socket_and_a_device_neither_block_nor_open(root: Path) -> None:
    os.mkfifo(root / "one" / "fifo")
    (root / "two").mkdir()
    os.mkfifo(root / "two" / "SKILL.md")
    with socket.socket(socket.AF_UNIX) as listener, contextlib.chdir(root / "one"):
        listener.bind("socket")
    folder = SkillFolder(root)
    for skill, name in [("one", "fifo"), ("one", "socket"), ("two", "SKILL.md")]:
        with pytest.raises(SkillError, match="not a regular file"):
            folder.read(skill, name)
    assert folder.search("needle") == [("one/notes/more.md", 2, "needle here")]
    assert len(folder.digest()) == 64


@pytest.mark.parametrize(
    "exchange", [os.mkfifo, lambda target: target.symlink_to("../../outside.md")], ids=["fifo", "link"]
)
def test_a_file_that_is_exchanged_after_the_look_is_refused(
    root: Path, monkeypatch: pytest.MonkeyPatch, exchange: Callable[[Path], None]
) -> None:
    """K23: between looking and opening there is time."""
    target = root / "one" / "SKILL.md"
    look = os.stat

    def look_then_exchange(path: str, **how: Any) -> os.stat_result:
        status = look(path, **how)
        if path == "SKILL.md":
            target.unlink()
            exchange(target)
        return status

    folder = SkillFolder(root)
    monkeypatch.setattr(os, "stat", look_then_exchange)
    with pytest.raises(SkillError, match=r"not a regular file|no file"):
        folder.read("one")


def test_a_huge_file_is_cut_and_says_by_how_much(root: Path) -> None:
    with (root / "one" / "huge.md").open("wb") as stream:
        stream.write(b"a" * MAX_READ)
        stream.truncate(3 * 1024**3)  # sparse
    read = SkillFolder(root).read("one", "huge.md")
    assert read.text == "a" * MAX_READ
    assert read.cut == 3 * 1024**3 - MAX_READ


@pytest.mark.parametrize("character", ["é", "€", "🙂"])
def test_a_cut_inside_a_character_leaves_whole_characters(root: Path, character: str) -> None:
    (root / "one" / "text.md").write_text("a" + character * 20)
    for limit in range(1, 40):
        text = SkillFolder(root).read("one", "text.md", limit).text
        assert ("a" + character * 20).startswith(text)
        assert limit - 3 <= len(text.encode()) <= limit


@pytest.mark.parametrize(
    "data", [b"\x7fELF\0\0", b"text\xff\xfe", b"\xc3", b"a" * 70 + b"\xc3\x28" + b"a" * 70]
)
def test_what_is_not_text_is_not_read(root: Path, data: bytes) -> None:
    (root / "one" / "blob").write_bytes(data)
    with pytest.raises(SkillError, match="not text"):
        SkillFolder(root).read("one", "blob")
    assert SkillFolder(root).search("text") == []


def test_a_search_is_bounded_and_knows_no_case(root: Path) -> None:
    (root / "one" / "many.md").write_text(("Straße " + "x" * 1000 + "\n") * 200)
    found = SkillFolder(root).search("STRASSE")
    assert len(found) == 50
    assert all(len(line) <= 240 for _, _, line in found)
    with pytest.raises(SkillError):
        SkillFolder(root).search("  ")


def test_the_digest_changes_with_every_name_kind_and_content(root: Path) -> None:
    def changed() -> Iterator[str]:
        yield SkillFolder(root).digest()
        (root / "one" / "SKILL.md").write_text(SKILL + " ")
        yield SkillFolder(root).digest()
        (root / "one" / "notes" / "more.md").rename(root / "one" / "notes" / "less.md")
        yield SkillFolder(root).digest()
        (root / "one" / "extra").write_text("")
        yield SkillFolder(root).digest()
        (root / "one" / "extra").unlink()
        (root / "one" / "extra").symlink_to("SKILL.md")
        yield SkillFolder(root).digest()
        (root / "ab").write_text("c")
        yield SkillFolder(root).digest()
        (root / "ab").rename(root / "a")
        (root / "a").write_text("bc")
        yield SkillFolder(root).digest()

    digests = list(changed())
    assert len(set(digests)) == len(digests)
    assert SkillFolder(root).digest() == digests[-1]


def test_names_that_run_into_each_other_do_not_give_the_same_digest(tmp_path: Path) -> None:
    for folder, names in [("two", ["a", "b"]), ("one", ["aotherb"])]:
        (tmp_path / folder).mkdir()
        for name in names:
            (tmp_path / folder / name).symlink_to("x")
    assert SkillFolder(tmp_path / "one").digest() != SkillFolder(tmp_path / "two").digest()


def test_the_digest_is_of_the_content_not_of_place_or_time(root: Path, tmp_path: Path) -> None:
    copy = tmp_path / "elsewhere"
    for name in ("one/notes/more.md", "one/SKILL.md"):
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_bytes((root / name).read_bytes())
    os.utime(copy / "one" / "SKILL.md", (1, 1))
    assert SkillFolder(copy).digest() == SkillFolder(root).digest()


def test_a_folder_named_by_mistake_is_refused(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(NsharnessError, match="skill_source"):
        SkillFolder(tmp_path / "nothing")
    with pytest.raises(NsharnessError, match="skill_source"):
        SkillFolder(tmp_path / "outside.md")
    monkeypatch.setattr(skills, "MAX_FILES", 1)
    with pytest.raises(NsharnessError, match="too large"):
        SkillFolder(root).digest()


def test_the_folder_is_opened_with_the_owners_rights_each_time(root: Path) -> None:
    entered = []

    @contextlib.contextmanager
    def as_owner() -> Iterator[None]:
        entered.append(True)
        yield
        entered.append(False)

    folder = SkillFolder(root, as_owner=as_owner)
    before = len(entered)
    folder.read("one")
    assert entered[before:] == [True, False]


@pytest.mark.parametrize("text", ["", "name: x", "---\nname: x", "--- \n", "text\n---\nname: x\n---"])
def test_front_matter_that_is_not_there_or_not_closed_is_none(text: str) -> None:
    assert front_matter(text) == {}


def test_front_matter_ends_at_its_second_line_of_dashes() -> None:
    assert front_matter("---\nname:  x \n# no pair\na: b: c\n---\nd: e\n") == {"name": "x", "a": "b: c"}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.sampled_from(["..", ".", "", "one", "notes", "more.md", "out", "\0", "outside.md"]), max_size=8
    )
)
def test_whatever_is_asked_for_only_skill_files_come_back(root: Path, parts: list[str]) -> None:
    """K23, with a link out of the folder in the way."""
    if not (root / "one" / "out").is_symlink():
        (root / "one" / "out").symlink_to("../..")
    with contextlib.suppress(SkillError):
        assert OUTSIDE not in SkillFolder(root).read("one", "/".join(parts)).text
