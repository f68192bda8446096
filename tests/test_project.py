"""The tree itself: what is in it, what must not be, and whether it can be packaged."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
import zipfile
from functools import cache
from pathlib import Path
from urllib.parse import unquote

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.support.sources import FOLDERS, ROOT

LONGEST_MODULE = 400
LONGEST_TEST = 500  # A test module is a list, and read as one.
LOCKS = sorted((ROOT / "requirements").glob("*.txt"))
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT, GROUPS = PYPROJECT["project"], PYPROJECT["dependency-groups"]

# Put together here, so that this file does not hold what it looks for.
REGISTRIES = ["py" + "pi.org", "python" + "hosted.org", "registry.npm" + "js.org", "crates" + ".io"]
CACHED = re.compile(r"/(\.venv|\.git(/|$)|\.hypothesis|__pycache__|\.\w+_cache)")
SCRATCH = re.compile(r"(~|\.(bak|log|orig|pyc|rej|swp|tmp))$|^(core|nohup\.out|\.DS_Store|a\.out|scratch.*)$")


@cache
def files() -> list[Path]:
    """Every file of the project: what git knows or would add; where there is no git, all but caches."""
    command = [
        "git",
        "-c",
        "safe.directory=*",
        "ls-files",
        "-z",
        "--cached",
        "--others",
        "--exclude-standard",
    ]
    try:
        listed = subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout
        found = [ROOT / os.fsdecode(name) for name in listed.split(b"\0") if name]
    except (OSError, subprocess.CalledProcessError):
        found = [
            Path(folder, name)
            for folder, _, names in os.walk(ROOT)
            for name in names
            if not re.search(
                r"/(\.venv|\.git/|\.git$|\.hypothesis|__pycache__|\.\w+_cache)", f"{folder}/{name}"
            )
        ]
    return [path for path in found if path.is_file()]


def texts() -> list[tuple[Path, str]]:
    return [(path, path.read_text(encoding="utf-8")) for path in files()]


def named(paths: list[Path]) -> list[str]:
    return [str(path.relative_to(ROOT)) for path in paths]


def test_there_are_files_to_check() -> None:
    assert {"pyproject.toml", "scripts/bootstrap", "tests/test_project.py"} <= set(named(files()))


def test_every_file_is_text() -> None:
    assert named([path for path in files() if b"\0" in path.read_bytes()]) == []
    assert texts()


def test_no_file_is_left_over() -> None:
    assert named([path for path in files() if SCRATCH.search(path.name)]) == []


def test_no_file_names_a_place_on_one_machine() -> None:
    places = [f"{ROOT}/", f"{sys.prefix}/", "/wo" + "rk/main", "/wo" + "rk/shared", "/op" + "t/ns"]
    if not sys.base_prefix.startswith("/usr"):
        places.append(f"{sys.base_prefix}/")
    assert named([path for path, text in texts() if any(place in text for place in places)]) == []


def test_no_file_names_a_package_registry() -> None:
    """Where packages come from is a setting of the machine; the hashes say what they are."""
    assert named([path for path, text in texts() if any(host in text for host in REGISTRIES)]) == []


def test_modules_are_short() -> None:
    limits = {path: LONGEST_TEST if "tests" in path.parts else LONGEST_MODULE for path, _ in texts()}
    long = [path for path, text in texts() if path.suffix == ".py" and text.count("\n") > limits[path]]
    assert named(long) == []


def test_lines_end_cleanly() -> None:
    untidy = [path for path, text in texts() if re.search(r"[ \t\r]$", text, re.MULTILINE)]
    assert named(untidy) == []
    assert named([path for path, text in texts() if text and not text.endswith("\n")]) == []


# --- requirement files ----------------------------------------------------------------------------


def pins(path: Path) -> dict[str, str]:
    """The version of each requirement of a lock file, by canonical name."""
    found: dict[str, str] = {}
    for line in path.read_text(encoding="ascii").splitlines():
        if line and not line.startswith((" ", "#")):
            requirement = Requirement(line.removesuffix("\\"))
            (specifier,) = requirement.specifier
            assert specifier.operator == "=="
            found[canonicalize_name(requirement.name)] = specifier.version
    return found


def test_all_locks_are_there() -> None:
    assert [path.name for path in LOCKS] == ["build.txt", "run.txt", "test.txt", "tools.txt"]


@pytest.mark.parametrize("path", LOCKS, ids=lambda path: path.name)
def test_everything_is_pinned_by_hash_and_from_nowhere(path: Path) -> None:
    blocks = re.split(r"\n(?=[^\s#])", path.read_text(encoding="ascii"))
    assert pins(path)
    assert [block for block in blocks if "==" in block and "    --hash=sha256:" not in block] == []
    options = {option for block in blocks for option in re.findall(r"(?m)^\s*(-[-\w]+)", block)}
    assert options == {"--hash"}
    assert "//" not in "".join(blocks)


def test_the_tests_run_with_what_users_run() -> None:
    assert pins(ROOT / "requirements" / "run.txt").items() <= pins(ROOT / "requirements" / "test.txt").items()


@pytest.mark.parametrize(
    ("lock", "wanted"),
    [
        (
            "run.txt",
            [*PYPROJECT["project"]["dependencies"], *PYPROJECT["project"]["optional-dependencies"]["models"]],
        ),
        ("test.txt", PYPROJECT["dependency-groups"]["test"]),
        ("build.txt", [*PYPROJECT["dependency-groups"]["build"], *PYPROJECT["build-system"]["requires"]]),
        ("tools.txt", PYPROJECT["dependency-groups"]["tools"]),
    ],
)
def test_the_pins_satisfy_the_project_file(lock: str, wanted: list[str]) -> None:
    pinned = pins(ROOT / "requirements" / lock)
    for requirement in map(Requirement, wanted):
        assert pinned[canonicalize_name(requirement.name)] in requirement.specifier, str(requirement)


# --- documents ------------------------------------------------------------------------------------


def anchors(markdown: str) -> set[str]:
    """The anchors that a renderer makes of the headings."""
    headings = re.findall(r"(?m)^#+ (.+?)\s*#*$", re.sub(r"```.*?```", "", markdown, flags=re.DOTALL))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize(
    "path", [path for path in files() if path.suffix == ".md"], ids=lambda path: path.name
)
def test_links_in_documents_lead_somewhere(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        other = (path.parent / unquote(name)).resolve() if name else path
        assert other.exists(), target
        if anchor:
            assert anchor in anchors(other.read_text(encoding="utf-8")), target


def test_the_licence_is_the_one_that_the_project_file_names() -> None:
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert PROJECT["license"] == "Apache-2.0"
    assert "Apache License" in text
    assert "Version 2.0, January 2004" in text
    assert "END OF TERMS AND CONDITIONS" in text


# --- scripts and packages -------------------------------------------------------------------------

SCRIPTS = [path for path in files() if path.parent in (ROOT / "scripts", ROOT / ".ci")]


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_scripts_can_be_started(path: Path) -> None:
    first = path.read_text(encoding="utf-8").partition("\n")[0]
    if path.suffix == ".sh":  # sourced
        assert "shell=sh" in first
    else:
        assert os.access(path, os.X_OK)
        assert first in ("#!/bin/sh", "#!/usr/bin/env bash", "#!/usr/bin/env python3")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The text of each file in the wheel by name."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-I", "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    (built,) = folder.glob("*.whl")
    with zipfile.ZipFile(built) as archive:
        return {name: archive.read(name).decode("utf-8") for name in archive.namelist()}


def test_the_wheel_has_every_file_of_the_three_packages_and_no_other(wheel: dict[str, str]) -> None:
    expected = {
        str(path.relative_to(folder))
        for package, folder in FOLDERS.items()
        for path in files()
        if path.is_relative_to(folder / package)
    }
    inside = {name for name in wheel if ".dist-info/" not in name}
    assert inside == expected
    assert {f"{package}/py.typed" for package in FOLDERS} <= inside
    assert "nsharness/stages/stage4/profile.toml" in inside
    assert any(name.endswith("SKILL.md") for name in inside)


def test_the_wheel_says_what_it_is(wheel: dict[str, str]) -> None:
    import nsharness

    info = f"nsharness-{nsharness.__version__}.dist-info"
    assert f"\nVersion: {nsharness.__version__}\n" in wheel[f"{info}/METADATA"]
    assert "\nLicense-Expression: Apache-2.0\n" in wheel[f"{info}/METADATA"]
    assert "\nnsharness = nsharness.cli:main\n" in wheel[f"{info}/entry_points.txt"]
