"""Profiles that extend others: which files count, and what they come to together."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from nsharness.errors import NsharnessError
from nsharness.policy.load import Loaded, load, load_profile

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(name: str, *lines: str) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(lines) + "\n")
        return path

    return write


def rule(name: str, host: str, *more: str) -> str:
    return "\n".join(["[[sandbox_proxy_rules]]", f'name = "{name}"', f'hosts = ["{host}"]', *more])


def rules(loaded: Loaded) -> list[tuple[str, str]]:
    return [(each.name, each.hosts[0]) for each in loaded.profile.sandbox_proxy_rules]


def test_the_nearer_file_wins_and_its_rules_come_first(write: Write, tmp_path: Path) -> None:
    write(
        "base.toml",
        'system_prompt = "base"',
        'model = "a:b"',
        rule("one", "one.test"),
        rule("two", "two.test"),
    )
    path = write(
        "near.toml",
        'extends = "./base.toml"',
        'system_prompt = "near"',
        rule("own", "own.test"),
        rule("two", "other.test"),
    )
    loaded = load(path)
    assert (loaded.profile.name, loaded.profile.system_prompt, loaded.profile.model) == (
        "near",
        "near",
        "a:b",
    )
    assert rules(loaded) == [("own", "own.test"), ("two", "other.test"), ("one", "one.test")]
    assert loaded.files == (tmp_path / "base.toml", path)


def test_tables_are_merged_and_lists_of_paths_joined(write: Write, tmp_path: Path) -> None:
    write(
        "base/b.toml", "[env]", 'A = "1"', 'B = "1"', "[filesystem]", 'read_only = ["x"]', 'hide = [".env*"]'
    )
    path = write(
        "p.toml",
        'extends = "base/b.toml"',
        "[env]",
        'B = "2"',
        "[filesystem]",
        'read_only = ["y"]',
        'hide = ["*.pem"]',
    )
    profile = load_profile(path)
    assert profile.env == {"A": "1", "B": "2"}
    # Each is relative to its own file.
    assert profile.filesystem.read_only == (str(tmp_path / "base/x"), str(tmp_path / "y"))
    assert profile.filesystem.hide == (".env*", "*.pem")


def test_several_bases_count_in_their_order_and_each_once(write: Write) -> None:
    write("a.toml", rule("a", "a.test"), "[env]", 'X = "a"')
    write("b.toml", 'extends = "./a.toml"', rule("b", "b.test"), "[env]", 'X = "b"')
    write("c.toml", 'extends = "./a.toml"', rule("c", "c.test"))
    loaded = load(write("d.toml", 'extends = ["./b.toml", "./c.toml"]'))
    assert rules(loaded) == [("c", "c.test"), ("b", "b.test"), ("a", "a.test")]
    assert loaded.profile.env == {"X": "b"}


def test_a_name_is_a_profile_of_the_persons_own(write: Write, tmp_path: Path, private_home: Path) -> None:
    write("home/.config/nsharness/work.toml", rule("work", "work.test"))
    path = write("p.toml", 'extends = "work"')
    assert rules(load(path, tmp_path / "home")) == [("work", "work.test")]
    with pytest.raises(NsharnessError, match=r"work\.toml: No such file"):
        load(path)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"p.toml": ['extends = "./p.toml"']}, "extends it in turn"),
        (
            {"p.toml": ['extends = "./q.toml"'], "q.toml": ['extends = ["./p.toml"]']},
            r"q\.toml, extends: .*in turn",
        ),
        ({"p.toml": ["extends = 7"]}, "extends: it is a file's path or a profile's name"),
        ({"p.toml": ['extends = [""]']}, "extends: it is a file's path"),
        ({"p.toml": ['extends = "./none.toml"']}, r"none\.toml: No such file"),
        ({"p.toml": ['extends = "./q.toml"'], "q.toml": ["x ="]}, r"q\.toml, line 1: not TOML"),
        (
            {"p.toml": ['extends = "./q.toml"'], "q.toml": ["", "modle = 1"]},
            r"q\.toml, line 2, modle: .*mean model",
        ),
        (
            {"p.toml": ['extends = "./q.toml"'], "q.toml": [rule("a", "*")]},
            r"q\.toml, line 3, rule a, .*hosts.*: .*over-broad",
        ),
    ],
)
def test_what_is_wrong_is_said_of_the_file_that_has_it(
    write: Write, files: dict[str, list[str]], message: str
) -> None:
    paths = [write(name, *lines) for name, lines in files.items()]
    with pytest.raises(NsharnessError, match=message) as caught:
        load(paths[0])
    assert "\n" not in str(caught.value)


def test_a_placeholder_may_be_of_a_secret_that_a_base_names(write: Write) -> None:
    write("base.toml", rule("api", "api.test", 'secrets = ["api.key"]', 'placeholders = ["header"]'))
    path = write("p.toml", 'extends = "./base.toml"', "[env]", 'KEY = "{{ placeholder api.key }}"')
    assert load_profile(path).env
    lost = write("q.toml", "[env]", 'KEY = "{{ placeholder api.key }}"')
    with pytest.raises(NsharnessError, match=r"q\.toml, line 2, env\.KEY: no rule turns"):
        load_profile(lost)


def test_the_digest_is_of_all_of_them(write: Write) -> None:
    write("base.toml", rule("a", "a.test"))
    path = write("p.toml", 'extends = "./base.toml"')
    before = load(path).digest
    assert load(path).digest == before
    write("base.toml", rule("a", "b.test"))
    assert load(path).digest != before
    assert load(write("p.toml", "")).digest != before


def test_a_great_many_files_are_a_mistake(write: Write) -> None:
    for number in range(40):
        write(f"{number}.toml", f'extends = "./{number + 1}.toml"')
    path = write("p.toml", 'extends = "./0.toml"')
    with pytest.raises(NsharnessError, match="more than 32 files"):
        load(path)
