"""Which limit it was: told once, whoever is faster, and remembered when the groups are gone."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from nsharness.errors import NsharnessError
from nsharness.linux import cgroups
from nsharness.plan.limits import LimitFacts, Limits, choose
from nsharness.supervisor.hub import Hub
from nsharness.supervisor.limits import Enforcer, Hit
from tests.support.waiting import readable


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folders and files in the place of control groups."""

    def make(path: str, *_: object) -> int:
        Path(path).mkdir()
        return os.open(f"{path}/cgroup.procs", os.O_WRONLY | os.O_CREAT)

    def remove(path: str) -> bool:
        shutil.rmtree(path)
        return True

    monkeypatch.setattr(cgroups, "make", make)
    monkeypatch.setattr(cgroups, "remove", remove)
    return tmp_path


def enforcer(tree: Path, told: list[Hit]) -> Enforcer:
    facts = LimitFacts(str(tree), frozenset({"memory", "pids"}))
    return Enforcer(choose(Limits(memory=64 << 20, pids=10), facts), "run-1", told.append)


@pytest.fixture
def victim() -> Iterator[int]:
    """A pidfd of a process that only a signal ends."""
    with subprocess.Popen(["sleep", "600"]) as process:
        descriptor = os.pidfd_open(process.pid)
        yield descriptor
        process.kill()
        os.close(descriptor)


def test_version_2_says_nothing_and_is_asked_afterwards(tree: Path) -> None:
    told: list[Hit] = []
    held = enforcer(tree, told)
    assert held.cause() is None
    Path(held.made[0], "memory.events").write_text("low 0\nmax 40\noom 1\noom_kill 2\noom_group_kill 1\n")
    Path(held.made[0], "pids.events").write_text("max 7\n")
    for _ in range(2):
        cause = held.cause()
        assert cause is not None
        assert cause.error().exit_code == 137
    held.close()
    assert list(tree.iterdir()) == []
    assert [hit.to_record() for hit in held.hits()] == [
        {"limit": "memory", "value": "64MiB", "ended": True, "count": 1},
        {"limit": "pids", "value": "10", "ended": False, "count": 7},
    ]
    assert [hit.name for hit in told] == ["memory"]


def test_near_its_limit_is_not_over_it(tree: Path) -> None:
    held = enforcer(tree, [])
    Path(held.made[0], "memory.events").write_text("max 40\noom 0\noom_kill 0\n")
    assert held.cause() is None
    held.close()
    assert held.hits() == ()


def test_a_group_that_cannot_be_made_leaves_none_of_the_others(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = cgroups.make

    def refuse_pids(path: str, version: int, controllers: tuple[str, ...], settings: object) -> int:
        if "pids" in controllers:
            raise OSError(28, "No space left on device", path)
        return make(path, version, controllers, ())

    monkeypatch.setattr(cgroups, "make", refuse_pids)
    facts = LimitFacts(legacy={name: str(tree / name) for name in ("memory", "pids")})
    for name in facts.legacy:
        (tree / name).mkdir()
    with pytest.raises(NsharnessError, match=r"cannot make the control group .*leave out pids in limits"):
        Enforcer(choose(Limits(memory=64 << 20, pids=10), facts), "run-1", lambda _: None)
    assert [path for path in tree.rglob("*") if path.parent != tree] == []


def test_time_ends_it_once(victim: int) -> None:
    told: list[Hit] = []
    with Hub(lambda error: pytest.fail(str(error))) as hub:
        held = Enforcer(choose(Limits(wall=0.01), LimitFacts()), "run-1", told.append)
        held.watch(hub, victim)
        assert readable(victim)  # it has ended
        held.close()
    assert [(hit.name, hit.ended) for hit in told] == [("wall", True)]


def test_what_is_over_is_not_ended_any_more(victim: int) -> None:
    """Its pidfd may be closed by then, and the number be another process's."""
    told: list[Hit] = []
    plan = choose(Limits(wall=60), LimitFacts())
    wall = plan.of("wall")
    assert wall is not None
    held = Enforcer(plan, "run-1", told.append)
    held.settle()
    held._end(wall, victim)
    assert told == []
    assert not readable(victim, 0)
    held.close()
