"""Bombs of every kind. Each goes off where nothing is limited, and comes to nothing where it is.

What this machine enforces memory and cores with is found out first; where it has nothing, that is an error
and no sandbox, which is tested too.
"""

from __future__ import annotations

import contextlib
import io
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nsharness.errors import NsharnessError
from nsharness.linux import cgroups
from nsharness.plan.limits import group_name
from nsharness.supervisor.console import Console
from nsharness.supervisor.limits import facts
from nsharness.supervisor.session import Session
from tests.support.processes import alive, descendants
from tests.support.sandboxes import Box, needs_sandbox, opened_box
from tests.support.waiting import DEADLINE, eventually

pytestmark = needs_sandbox

OOM = "the sandbox was ended: out of memory: more than limits.memory = 64MiB"
LATE = "the sandbox was ended: its time is over: limits.wall = 0.3 s"


def has(controller: str) -> bool:
    here = facts()
    return controller in here.unified_controllers or controller in here.legacy


@contextlib.contextmanager
def limited(session: Session, **limits: Any) -> Iterator[Box]:
    """A sandbox with limits, of which nothing is left afterwards, however it ended."""
    with opened_box(session, limits=limits) as box:
        inside = {box.pid, *descendants(box.pid)}
        yield box
        inside |= descendants(box.pid)
    assert not any(map(alive, inside))
    assert groups_of(box) == []


def groups_of(box: Box) -> list[str]:
    """The control groups of one sandbox that exist; a session's others may have some too."""
    return [group for group in cgroups.named(group_name(box.id)) if group in box.groups]


# --- processes ----------------------------------------------------------------------------------------------

MANY = "for i in {1..60}; do sleep 60 & done 2>/dev/null; jobs -r | wc -l"


@pytest.mark.slow
def test_as_many_processes_as_they_like(session: Session) -> None:
    with limited(session) as box:
        assert box.shell.run(MANY).stdout == "60\n"


@pytest.mark.slow
def test_no_more_processes_than_the_limit(session: Session) -> None:
    """Bash tries for a while to start one more."""
    with limited(session, pids=40) as box:
        box.shell.run(f"({MANY}) &")
        # All places are taken; one that we took and gave back would stay free while bash waits to try again.
        eventually(lambda: len(descendants(box.pid)) + 1 == 40)
        assert box.shell.run("sleep 0.3", 1.0).exit_code != 0  # it cannot be started any more
        assert len(descendants(box.pid)) + 1 <= 40


def test_a_fork_bomb_harms_nobody_and_ends_with_its_sandbox(session: Session) -> None:
    with limited(session, pids=60) as box:
        box.shell.run("bomb() { bomb | bomb & }; bomb 2>/dev/null", 1.0)
        most = 0
        for _ in range(20):
            most = max(most, len(descendants(box.pid)))
        assert most < 60
        with opened_box(session) as other:
            assert other.out("echo as ever") == "as ever"


def test_what_was_refused_is_counted_and_told(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    if not has("pids"):
        pytest.skip("RLIMIT_NPROC counts no refusals")
    stream = io.StringIO()
    monkeypatch.setattr(session, "reporter", Console(stream))
    with limited(session, pids=20) as box:
        box.shell.run("for i in {1..30}; do (sleep 60 &) ; done 2>/dev/null", 0.5)
    (hit,) = box.limits_hit
    assert (hit.name, hit.ended, hit.count > 0) == ("pids", False, True)
    assert f"limits.pids = 20 was reached {hit.count} times" in stream.getvalue()


def test_processes_of_one_sandbox_do_not_count_in_another(session: Session) -> None:
    """RLIMIT_NPROC counts those of one user; each workload is the only one in its user namespace."""
    with limited(session, pids=40) as one, limited(session, pids=40) as other:
        one.shell.run("for i in {1..25}; do sleep 60 & done")
        assert other.shell.run("for i in {1..25}; do sleep 60 & done; jobs -r | wc -l").stdout == "25\n"


# --- memory -------------------------------------------------------------------------------------------------

MEMORY = "head -c 150000000 /dev/zero | tail -n 1 | wc -c"
FILES = "head -c 150000000 /dev/zero > /tmp/x && echo written"


@pytest.mark.slow
@pytest.mark.parametrize(("bomb", "proof"), [(MEMORY, "150000000"), (FILES, "written")])
def test_as_much_memory_as_they_like(session: Session, bomb: str, proof: str) -> None:
    with limited(session) as box:
        assert box.out(bomb) == proof


@pytest.mark.parametrize("bomb", [MEMORY, FILES], ids=["memory", "files in memory"])
def test_out_of_memory_ends_the_whole_sandbox_and_says_so(session: Session, bomb: str) -> None:
    if not has("memory"):
        with pytest.raises(NsharnessError, match=r"cannot enforce limits.memory = 64MiB.*systemd-run"):
            opened_box(session, limits={"memory": "64MiB"}).__enter__()
        return
    with limited(session, memory="64MiB") as box:
        box.shell.run("sleep 60 &")
        result = box.shell.run(bomb)
        assert (result.exit_code, OOM in result.stderr) == (137, True)
        assert box.wait(DEADLINE)
        eventually(lambda: not alive(box.pid))
        for attempt in (lambda: box.run(["true"]), lambda: box.shell.run("true")):
            with pytest.raises(NsharnessError, match=OOM) as raised:
                attempt()
            assert raised.value.exit_code == 137
    (hit,) = [hit for hit in box.limits_hit if hit.ended]
    assert hit.to_record() == {"limit": "memory", "value": "64MiB", "ended": True, "count": 1}


@pytest.mark.root
def test_the_kernel_alone_ends_one_process_of_it(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    """Version 1 has no memory.oom.group: without our watching, the rest of the workload goes on."""
    if "memory" not in facts().legacy:
        pytest.skip("cgroup version 1 does not limit memory here")
    monkeypatch.setattr(cgroups, "watch_memory", lambda _: os.eventfd(0))
    with limited(session, memory="64MiB") as box:
        box.shell.run("sleep 60 &")
        # To the shell it looks like success; whoever asks is told all the same.
        result = box.shell.run(MEMORY)
        assert (result.exit_code, result.stdout, OOM in result.stderr) == (137, "0\n", True)
        assert box.alive
        assert len(descendants(box.pid)) >= 2


def test_a_program_that_runs_out_of_memory_ends_with_the_reason(session: Session) -> None:
    if not has("memory"):
        pytest.skip("nothing here limits the memory of a sandbox")
    with limited(session, memory="64MiB") as box:
        assert box.bash(MEMORY).exit_code == 137
        assert str(box.ended_by).startswith(OOM)


def test_less_memory_than_the_limit_is_no_matter(session: Session) -> None:
    limits: dict[str, Any] = {"memory": "256MiB", "best_effort": True}
    with limited(session, **limits) as box:
        assert box.out("head -c 20000000 /dev/zero | tail -n 1 | wc -c") == "20000000"
        assert box.ended_by is None


def test_the_weaker_limit_holds_a_single_process(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without control groups, as far as it goes: the program gets no more, the sandbox goes on."""
    monkeypatch.setattr(cgroups, "available", cgroups.Available)
    with limited(session, memory="64MiB", best_effort=True) as box:
        assert box.plan.limits.of("memory").mechanism == "rlimit"  # type: ignore[union-attr]
        done = box.bash(MEMORY)
        assert b"memory exhausted" in done.stderr
        assert box.out("echo goes on") == "goes on"


# --- files, descriptors, cores ------------------------------------------------------------------------------


def test_private_file_systems_are_full_at_their_size(session: Session) -> None:
    with limited(session, tmp="1MB") as box:
        for folder in ("/tmp", "/var/tmp", "/dev/shm", "$HOME", "/run"):
            done = box.bash(f"head -c 2000000 /dev/zero > {folder}/x")
            assert b"No space left on device" in done.stderr
    with limited(session) as box:
        assert box.bash("head -c 2000000 /dev/zero > /tmp/x").exit_code == 0


OPEN = "for i in {1..400}; do exec {fd}</dev/null || exit 1; done 2>/dev/null; echo all"


def test_no_more_open_files_than_the_limit(session: Session) -> None:
    with limited(session) as box:
        assert box.out(OPEN) == "all"
    with limited(session, open_files=256) as box:
        assert box.bash(OPEN).stdout == b""
        assert box.out("ulimit -n 100000 2>/dev/null; ulimit -n") == "256"
        assert box.shell.run("echo the shell works").stdout == "the shell works\n"
        # It can lower what its first process has (prlimit(2)); nobody gains by that.
        box.bash("prlimit --pid 1 --nofile=200")
        assert int(box.out("ulimit -n")) <= 256


@pytest.mark.parametrize(("cores", "held_back"), [(0.1, True), (64, False)])
def test_no_more_of_the_processor_than_the_limit(session: Session, cores: float, held_back: bool) -> None:
    if not has("cpu"):
        with pytest.raises(NsharnessError, match=r"cannot enforce limits.cpu"):
            opened_box(session, limits={"cpu": cores}).__enter__()
        return
    with limited(session, cpu=cores) as box:
        group = next(group for group in groups_of(box) if Path(group, "cpu.stat").exists())
        box.shell.run("for ((i = 0; i < 30000; i++)); do :; done")
        assert (cgroups.count(group, "cpu.stat", "nr_throttled") > 0) == held_back


# --- time and output ----------------------------------------------------------------------------------------


def test_when_its_time_is_over_a_sandbox_ends_and_says_so(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(session, "reporter", Console(stream))
    with limited(session, wall=0.3) as box:
        begun = time.monotonic()
        result = box.shell.run("trap '' TERM; sleep 60")
        assert 0.1 < time.monotonic() - begun < DEADLINE
        assert (result.exit_code, LATE in result.stderr) == (124, True)
        with pytest.raises(NsharnessError, match=LATE) as raised:
            box.run(["true"])
        assert raised.value.exit_code == 124
    assert [hit.name for hit in box.limits_hit] == ["wall"]
    assert stream.getvalue().count("Ended (its time is over: limits.wall = 0.3 s)\n") == 1


def test_a_program_that_runs_when_the_time_is_over_timed_out(session: Session) -> None:
    with limited(session, wall=0.3) as box:
        done = box.run(["sleep", "60"])
        assert (done.exit_code, done.timed_out) == (124, True)


def test_a_sandbox_that_ends_in_time_hears_nothing_of_it(session: Session) -> None:
    with limited(session, wall=60) as box:
        assert box.out("echo quick") == "quick"
    assert box.limits_hit == ()
    assert box.ended_by is None


def test_output_is_kept_up_to_the_limit(session: Session) -> None:
    with limited(session, output=1000) as box:
        result = box.shell.run("seq 10000")
        assert result.truncated
        assert len(result.stdout) < 1100
        assert len(box.bash("seq 10000").stdout) == 1000
    with limited(session) as box:
        assert not box.shell.run("seq 10000").truncated


# --- the groups themselves ----------------------------------------------------------------------------------


def test_the_sandbox_is_in_its_groups_before_it_runs_anything_and_sees_none(session: Session) -> None:
    with limited(session, pids=100) as box:
        expected = len(box.plan.limits.groups(box.id))
        assert [box.pid in cgroups.processes(group) for group in groups_of(box)] == [True] * expected
        assert box.out("ls /sys 2>/dev/null; cat /proc/self/cgroup | grep -c nsharness || true") == "0"


@pytest.mark.root
def test_a_group_that_cannot_be_made_is_an_error_only_if_it_was_asked_for(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: str, *_: object) -> int:
        raise OSError(28, "No space left on device", path)

    if not has("pids"):
        pytest.skip("there are no control groups here")
    monkeypatch.setattr(cgroups, "make", refuse)
    with pytest.raises(NsharnessError, match=r"cannot make the control group .*No space left"):
        opened_box(session, limits={"pids": 50}).__enter__()
    with opened_box(session) as box:
        assert box.out("echo fine") == "fine"
