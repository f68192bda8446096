"""A change of the code is seen, whatever it is, and bytecode is none."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from nsharness.background.daemon import Code


@pytest.fixture
def package(tmp_path: Path) -> Path:
    folder = tmp_path / "package"
    (folder / "inner").mkdir(parents=True)
    for name in ("__init__.py", "inner/__init__.py", "inner/module.py", "inner/profile.toml"):
        (folder / name).write_text("1\n")
    # Long ago: clocks of file systems are coarse.
    for path in (folder, *folder.rglob("*")):
        os.utime(path, (1e9, 1e9))
    return folder


def changed(path: Path) -> None:
    path.write_text("2\n")


def replaced(path: Path) -> None:
    other = path.with_name("other")
    other.write_text("2\n")
    os.utime(other, (1e9, 1e9))
    other.rename(path)


def added(path: Path) -> None:
    path.with_name("more.py").write_text("2\n")


def added_deeper(path: Path) -> None:
    path.with_name("deep").mkdir()
    path.with_name("deep").joinpath("more.py").write_text("2\n")


@pytest.mark.parametrize("name", ["inner/module.py", "inner/profile.toml", "__init__.py"])
@pytest.mark.parametrize("change", [changed, replaced, Path.unlink, added, added_deeper])
def test_every_change_is_seen(package: Path, name: str, change: Callable[[Path], None]) -> None:
    code = Code([str(package)])
    assert code.is_the_same()
    change(package / name)
    assert not code.is_the_same()
    assert not code.is_the_same()


def test_what_is_no_code_is_no_change_and_hides_none(package: Path) -> None:
    code = Code([str(package)])
    (package / "inner" / "__pycache__").mkdir()
    (package / "inner" / "__pycache__" / "module.cpython-312.pyc").write_bytes(b"")
    (package / "notes").write_text("")
    assert code.is_the_same()
    (package / "inner" / "more.py").write_text("")
    assert not code.is_the_same()
