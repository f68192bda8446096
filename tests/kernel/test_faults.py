"""Any process of a run killed at any step of its start or its end: afterwards nothing is left.

The whole composition, as ``nsharness run`` opens it. What survives is looked for as processes (by the mark
that each of them carries), control groups, sockets and files; mounts, links and temporary files by the check
that every kernel test is under.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from nsharness.linux import cgroups
from nsharness.linux.identity import current
from nsharness.plan.limits import group_name
from nsharness.supervisor.orphans import collect
from tests.support.faulty import VICTIMS
from tests.support.processes import marked_like, strays
from tests.support.sandboxes import needs_sandbox
from tests.support.tiers import others_slow
from tests.support.waiting import eventually

pytestmark = needs_sandbox

SECONDS = 60
RECORDS = {"audit.jsonl", "result.json"}


def run(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-I", "-m", "tests.support.faulty", str(folder), *options],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        cwd="/",
    )


def kill_at(folder: Path, victim: str, phase: str, step: int) -> None:
    """One fault, and a look at everything that it may have left."""
    before = marked_like(os.getpid())
    done = run(folder, "--phase", phase, "--at", str(step), "--victim", victim)
    where = f"{victim} killed at step {step} of the {phase}: {done.returncode} {done.stderr}"
    assert done.returncode in ({-9} if victim == "supervisor" else {0, 125}), where
    # One line for one failure, and none for a run that could go on.
    assert len(done.stderr.splitlines()) == (1 if done.returncode == 125 else 0), where
    none_strays(before, where)
    left = collect(current(), everything=False, environ={"XDG_STATE_HOME": str(folder)})
    assert all(orphan.gone for orphan in left), where
    # Whoever could still say that it ended has left nothing that had to be looked for.
    assert (left == []) or victim == "supervisor", (where, left)
    runs = [path for path in folder.glob("nsharness/runs/*") if path.is_dir()]
    assert {path.name for each in runs for path in each.iterdir()} <= RECORDS, where
    assert not [group for each in runs for group in cgroups.named(group_name(each.name))], where
    assert collect(current(), everything=False, environ={"XDG_STATE_HOME": str(folder)}) == []


def none_strays(before: set[int], where: str) -> None:
    try:
        eventually(lambda: not strays(before))
    except AssertionError:
        pytest.fail(f"{where}: {strays(before)}")


# --- a few, late in the start, when most is there already, and while things are being taken down ------------


@pytest.mark.parametrize(
    ("victim", "phase", "step"),
    others_slow(
        [("supervisor", "start", 68), ("supervisor", "end", 5), ("zygote", "end", 6), ("proxy", "start", 66)]
    ),
)
def test_at_some_steps(short_tmp: Path, victim: str, phase: str, step: int) -> None:
    kill_at(short_tmp, victim, phase, step)


# --- all of them --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def steps(tmp_path_factory: pytest.TempPathFactory) -> dict[str, int]:
    """How many steps each phase has."""
    done = run(tmp_path_factory.mktemp("count"))
    assert done.returncode == 0, done.stderr
    counts = dict(json.loads(done.stdout))
    assert counts["start"] > 68
    assert counts["end"] > 15
    return counts


@pytest.mark.exhaustive
@pytest.mark.parametrize("phase", ["start", "end"])
@pytest.mark.parametrize("victim", ["supervisor", *VICTIMS])
def test_at_every_step(short_tmp: Path, steps: dict[str, int], victim: str, phase: str) -> None:
    for step in range(1, steps[phase] + 1):
        kill_at(short_tmp, victim, phase, step)
