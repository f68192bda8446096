"""Probes: what a kernel allows is found out in a child, and told with cause and remedy."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from nsharness.linux import chain
from nsharness.linux.chain import Outcome, attempt
from nsharness.linux.diagnosis import Failure
from nsharness.linux.probe import PROBES, REQUIRED, Result, _run
from tests.support import processes
from tests.support.descriptors import open_now

# A test worker has threads; the forked child uses none of what they may hold.
pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")


def works() -> str:
    return "ABI 7"


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


def _never() -> None:
    raise AssertionError("a step after a refused one")


def test_what_works_is_ok_and_says_its_detail() -> None:
    assert attempt([("first", lambda: None), ("last", works)]) == Outcome(detail="ABI 7")
    assert _run([("last", works)], "hint") == Result(True, detail="ABI 7")


@pytest.mark.parametrize(
    ("action", "step", "errno", "why"),
    [
        (_refused, "uid_map", 1, "/proc/self/uid_map: Operation not permitted"),
        (_refused_without_a_file, "second", 38, "Function not implemented"),
        (_broken, "second", 0, "ZeroDivisionError: division by zero"),
        (_says_much, "second", 1, "x" * 2000),
    ],
)
def test_the_first_refused_step_is_named(action: Callable[[], None], step: str, errno: int, why: str) -> None:
    outcome = attempt([("first", works), ("second", action), ("third", _never)])
    assert outcome.failure is not None
    assert (outcome.failure.step, outcome.failure.errno, outcome.why) == (step, errno, why)


def test_a_child_that_just_ends_is_a_failure() -> None:
    assert attempt([("only", _ends)]) == Outcome(Failure("only", 0), "the probe ended with status 7")


def test_a_failed_probe_says_why_and_what_to_do() -> None:
    assert _run([("x", _refused_without_a_file)], "hint") == Result(
        False, "x: Function not implemented", "hint", "x", 38
    )
    diagnosed = _run([("veth", _refused_without_a_file)])
    assert not diagnosed.ok
    assert diagnosed.hint


def test_a_probe_leaves_neither_descriptor_nor_child() -> None:
    before, children = open_now(), processes.descendants(os.getpid())
    attempt([("x", _refused)])
    assert open_now() == before
    assert processes.descendants(os.getpid()) <= children


def namespaces() -> list[int]:
    return [Path(f"/proc/self/ns/{name}").stat().st_ino for name in ("user", "net", "mnt", "pid")]


@pytest.mark.parametrize("name", PROBES)
def test_every_probe_gives_an_answer_and_changes_nothing_here(name: str) -> None:
    before = namespaces()
    result = PROBES[name]()
    assert result.ok or (result.why and result.hint and result.step)
    assert namespaces() == before


def test_what_is_required_is_probed() -> None:
    assert set(REQUIRED) <= set(PROBES)


def test_an_ordinary_user_begins_with_a_user_namespace_and_root_does_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for uid, first in ((1000, "unshare-user"), (0, "unshare-mount")):
        monkeypatch.setattr(os, "geteuid", lambda uid=uid: uid)
        assert chain.workload()[0][0] == first
