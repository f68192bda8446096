"""Probes: what a kernel allows is found out in a child, and told with cause and remedy."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from nsharness.linux.probe import PROBES, REQUIRED, Result, _in_child
from tests.support import processes
from tests.support.descriptors import open_now

# A test worker has threads; the forked child uses none of what they may hold.
pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")


def works() -> None:
    pass


def _refused() -> None:
    raise PermissionError(1, "Operation not permitted", "/proc/self/uid_map")


def _refused_without_a_file() -> None:
    raise OSError(38, "Function not implemented")


def _broken() -> None:
    raise ZeroDivisionError("division by zero")


def _ends() -> None:
    os._exit(7)


def _says_much() -> None:
    raise OSError(1, "x" * 100_000)


def test_what_works_is_ok_and_says_nothing() -> None:
    assert _in_child(works, "hint") == Result(True)


@pytest.mark.parametrize(
    ("action", "why"),
    [
        (_refused, "/proc/self/uid_map: Operation not permitted"),
        (_refused_without_a_file, "refused_without_a_file: Function not implemented"),
        (_broken, "broken: ZeroDivisionError: division by zero"),
        (_ends, "the probe ended with status 7"),
        (_says_much, "says_much: " + "x" * 489),
    ],
)
def test_what_does_not_work_says_why_and_what_to_do(action: object, why: str) -> None:
    assert callable(action)
    assert _in_child(action, "hint") == Result(False, why, "hint")


def test_a_probe_leaves_neither_descriptor_nor_child() -> None:
    before, children = open_now(), processes.descendants(os.getpid())
    _in_child(_refused, "")
    assert open_now() == before
    assert processes.descendants(os.getpid()) <= children


def namespaces() -> list[int]:
    return [Path(f"/proc/self/ns/{name}").stat().st_ino for name in ("user", "net", "mnt", "pid")]


@pytest.mark.parametrize("name", PROBES)
def test_every_probe_gives_an_answer_and_changes_nothing_here(name: str) -> None:
    before = namespaces()
    result = PROBES[name]()
    assert result.ok or (result.why and result.hint)
    assert namespaces() == before


def test_what_is_required_is_probed() -> None:
    assert set(REQUIRED) <= set(PROBES)
