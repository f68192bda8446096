"""Everything ends with the sandbox, and the sandbox with whoever started it, however they end."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from nsharness.errors import NsharnessError
from nsharness.linux import cgroups
from nsharness.linux.identity import current
from nsharness.plan.limits import group_name
from nsharness.supervisor.orphans import Orphan, collect
from nsharness.supervisor.session import Session
from tests.support import processes
from tests.support.descriptors import open_now
from tests.support.held import HOSTILE
from tests.support.processes import alive, descendants, marked_like, strays
from tests.support.sandboxes import Box, Gateway, namespaces_in_use, needs_sandbox, opened_box, opened_session
from tests.support.tiers import others_slow
from tests.support.waiting import DEADLINE, eventually

pytestmark = needs_sandbox


@dataclass
class Held:
    """A program that holds a sandbox, and what it told about it."""

    process: subprocess.Popen[str]
    zygote: int
    init: int
    inside: list[int]
    namespaces: list[int]
    calls: int

    @property
    def pids(self) -> list[int]:
        return [self.process.pid, self.zygote, self.init, *self.inside]

    def find_inside(self) -> list[int]:
        """Look for the workload's processes again."""
        self.inside = sorted(filter(alive, descendants(self.init)))
        return self.inside

    def all_gone(self) -> bool:
        """No process, and no namespace that one of them was in, not by a descriptor either."""
        return not any(map(alive, self.pids)) and not set(self.namespaces) & namespaces_in_use()


def start(state: Path, *options: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-I", "-m", "tests.support.held", str(state), *options],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd="/",
        start_new_session=True,
    )


def close(process: subprocess.Popen[str]) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.kill()
    process.wait(DEADLINE)
    for stream in (process.stdin, process.stdout, process.stderr):
        if stream is not None:
            with contextlib.suppress(BrokenPipeError):
                stream.close()


@pytest.fixture
def hold(short_tmp: Path) -> Iterator[Callable[..., Held]]:
    started = []

    def start_one(*options: str) -> Held:
        process = start(short_tmp, *options)
        started.append(process)
        assert process.stdout is not None
        assert process.stderr is not None
        line = process.stdout.readline()
        record: dict[str, Any] = json.loads(line) if line else pytest.fail(process.stderr.read())
        held = Held(process, **record)
        # Otherwise none of the tests could fail. Some of the workload has forked and ended already, or is
        # about to: how many there are is all that can be said.
        enough = 8 if "--hostile" in options else 2
        eventually(lambda: len(held.find_inside()) >= enough)
        assert all(map(alive, [process.pid, held.zygote, held.init]))
        own = set(held.namespaces) - {entry.stat().st_ino for entry in Path("/proc/self/ns").iterdir()}
        assert len(own) >= 7
        held.namespaces = sorted(own)
        return held

    yield start_one
    for process in started:
        close(process)
    collect_all(short_tmp)


def collect_all(state: Path) -> list[Orphan]:
    """What ``nsharness gc`` finds there; a killed supervisor cannot tidy up after itself."""
    return collect(current(), everything=False, environ={"XDG_STATE_HOME": str(state)})


def leave(held: Held) -> None:
    assert held.process.stdin is not None
    held.process.stdin.close()


def kill_all(held: Held) -> None:
    for pid in (held.process.pid, held.zygote):
        os.kill(pid, signal.SIGKILL)


ENDS: dict[str, Callable[[Held], object]] = {
    "it leaves": leave,
    "Ctrl-C": lambda held: held.process.send_signal(signal.SIGINT),
    "a request to end": lambda held: held.process.send_signal(signal.SIGTERM),
    "the terminal goes away": lambda held: held.process.send_signal(signal.SIGHUP),
    "it is killed": lambda held: held.process.kill(),
    "all of it is killed": kill_all,
}


@pytest.mark.parametrize("workload", others_slow(["hostile", "quiet"]))
@pytest.mark.parametrize("end", others_slow(ENDS, ["it is killed"]))
def test_however_the_supervisor_ends_everything_is_gone(
    hold: Callable[..., Held], end: str, workload: str
) -> None:
    held = hold(*(["--hostile"] if workload == "hostile" else []))
    ENDS[end](held)
    held.process.wait(DEADLINE)
    eventually(held.all_gone)


@pytest.mark.slow
def test_an_exception_in_the_block_ends_everything(hold: Callable[..., Held]) -> None:
    held = hold("--hostile", "--fail")
    leave(held)
    assert held.process.wait(DEADLINE) == 1
    eventually(held.all_gone)


@pytest.mark.parametrize("victim", others_slow(["zygote", "init"]))
def test_when_a_helper_is_killed_the_workload_is_gone_at_once(hold: Callable[..., Held], victim: str) -> None:
    held = hold("--hostile")
    os.kill(getattr(held, victim), signal.SIGKILL)
    eventually(lambda: not any(map(alive, [held.init, *held.inside])))
    leave(held)
    assert held.process.wait(DEADLINE) == 0
    eventually(held.all_gone)


@pytest.mark.slow
def test_a_zygote_that_hangs_keeps_nothing_alive(hold: Callable[..., Held]) -> None:
    """The first process watches its supervisor by itself."""
    held = hold("--hostile")
    os.kill(held.zygote, signal.SIGSTOP)
    held.process.kill()
    try:
        eventually(lambda: not any(map(alive, [held.init, *held.inside])))
    finally:
        os.kill(held.zygote, signal.SIGKILL)
    eventually(held.all_gone)


@pytest.mark.slow
def test_what_a_killed_supervisor_leaves_is_found_and_removed(
    hold: Callable[..., Held], short_tmp: Path
) -> None:
    held = hold("--hostile")
    assert collect_all(short_tmp) == []  # it lives
    assert all(map(alive, [held.process.pid, held.zygote, held.init]))
    assert len(held.find_inside()) >= 8
    held.process.kill()
    held.process.wait(DEADLINE)
    eventually(held.all_gone)
    (run,) = (path.name for path in short_tmp.glob("nsharness/runs/*"))
    groups = list(cgroups.named(group_name(run)))
    left = collect_all(short_tmp)
    assert {orphan.kind for orphan in left} == {"file", "record", *(["group"] if groups else [])}
    assert all(orphan.gone for orphan in left)
    assert list(cgroups.named(group_name(run))) == []
    assert collect_all(short_tmp) == []


def test_the_next_start_removes_it_too(hold: Callable[..., Held], short_tmp: Path) -> None:
    held = hold()
    held.process.kill()
    held.process.wait(DEADLINE)
    eventually(held.all_gone)
    (run,) = short_tmp.glob("nsharness/runs/*")
    assert (run / "live").exists()
    with opened_session(short_tmp):
        pass
    assert json.loads((run / "result.json").read_text())["error"] == "its supervisor was killed"
    assert not (run / "live").exists()


@pytest.mark.slow
def test_processes_that_were_stopped_before_they_could_end_are_ended(
    hold: Callable[..., Held], short_tmp: Path
) -> None:
    """Zygote and first process watch their supervisor, but a stopped process sees nothing."""
    held = hold("--hostile")
    for pid in (held.zygote, held.init):
        os.kill(pid, signal.SIGSTOP)
    held.process.kill()
    held.process.wait(DEADLINE)
    assert all(map(alive, [held.zygote, held.init]))
    assert len(held.find_inside()) >= 3  # without those whose pipes have broken
    collect_all(short_tmp)
    eventually(held.all_gone)


@pytest.mark.slow
def test_nothing_but_records_is_left_in_the_state_directory(
    hold: Callable[..., Held], short_tmp: Path
) -> None:
    held = hold()
    leave(held)
    held.process.wait(DEADLINE)
    left = [path for path in short_tmp.rglob("*") if not path.is_dir()]
    assert [path for path in left if not stat.S_ISREG(path.lstat().st_mode)] == []
    assert {path.name for path in left} <= {"audit.jsonl", "result.json"}


# --- at every step of the start -----------------------------------------------------------------------------

# Who dies, and how the program may end then; 0 when all was done already, 125 with one line of explanation.
HAPPENINGS = {"interrupt": {130}, "kill": {-9}, "nsharness-zygot": {0, 125}, "nsharness-init": {0, 125}}


def at_step(state: Path, what: str, step: int) -> None:
    before = marked_like(os.getpid())
    process = start(state, "--hostile", "--at", str(step), "--what", what)
    try:
        _, complaint = process.communicate(timeout=40)
        assert process.returncode in HAPPENINGS[what], (step, complaint)
        # Found by the mark that every process started here carries.
        eventually(lambda: not strays(before))
        left = collect_all(state)
        assert all(orphan.gone for orphan in left)
        assert left == [] or what == "kill", (step, left)
        files = {path.name for path in state.rglob("*") if not path.is_dir()}
        assert files <= {"audit.jsonl", "result.json"}, (step, files)
    finally:
        close(process)


@pytest.fixture(scope="module")
def steps(tmp_path_factory: pytest.TempPathFactory) -> int:
    """How many calls a start makes."""
    process = start(tmp_path_factory.mktemp("count"))
    out, err = process.communicate(timeout=40)
    assert out, err
    return int(json.loads(out)["calls"])


@pytest.mark.parametrize("what", others_slow(HAPPENINGS))
@pytest.mark.parametrize("part", others_slow(range(6), [2, 4]))
def test_at_some_steps_of_the_start(short_tmp: Path, steps: int, what: str, part: int) -> None:
    """Evenly over all of them; another few every time a step is added."""
    at_step(short_tmp, what, 1 + (steps - 1) * part // 5)


@pytest.mark.exhaustive
@pytest.mark.parametrize("what", HAPPENINGS)
def test_at_every_step_of_the_start(short_tmp: Path, steps: int, what: str) -> None:
    for step in range(1, steps + 1, 3):
        at_step(short_tmp, what, step)


# --- in one process -----------------------------------------------------------------------------------------


@pytest.fixture
def own_session(short_tmp: Path) -> Iterator[Session]:
    with opened_session(short_tmp) as session:
        yield session


def test_a_sandbox_that_is_left_is_gone_when_the_block_is(session: Session) -> None:
    with opened_box(session) as box:
        box.shell.run(HOSTILE)
        inside = {box.pid, *descendants(box.pid)}
        assert len(inside) > 8
    assert not any(map(alive, inside))


@pytest.mark.slow
def test_many_sandboxes_leave_nothing_in_the_supervisor(session: Session) -> None:
    with opened_box(session) as box:
        box.shell.run("true")
    before = open_now()
    for _ in range(10):
        with opened_box(session) as box:
            box.shell.run("sleep 60 &")
            box.run(["true"], stdin=b"x")
    assert open_now().keys() == before.keys()
    eventually(lambda: not any(map(alive, descendants(session.zygote.pid))))


def test_the_zygote_keeps_no_descriptor_of_a_sandbox_that_is_gone(session: Session) -> None:
    def held_by_zygote() -> int:
        return len(list(Path(f"/proc/{session.zygote.pid}/fd").iterdir()))

    with opened_box(session):
        pass
    try:
        before = held_by_zygote()
    except PermissionError:
        pytest.skip("only root may look at a process that changed its user namespace")
    for _ in range(5):
        with opened_box(session):
            pass
    eventually(lambda: held_by_zygote() <= before)


def test_sandboxes_of_one_session_do_not_end_with_each_other(session: Session) -> None:
    with opened_box(session) as one:
        with opened_box(session) as other:
            other.shell.run("true")
        assert one.shell.run("echo goes on").stdout == "goes on\n"


@pytest.mark.parametrize("victim", ["zygote", "init"])
def test_a_killed_helper_is_told_as_the_end_of_the_sandbox(own_session: Session, victim: str) -> None:
    with opened_box(own_session) as box:
        box.shell.run("true")
        os.kill(own_session.zygote.pid if victim == "zygote" else box.pid, signal.SIGKILL)
        eventually(lambda: not box.alive)
        for attempt in (
            lambda: box.run(["true"]),
            lambda: box.shell.run("true"),
            lambda: box.read_file("/etc/passwd"),
        ):
            with pytest.raises(NsharnessError, match="the sandbox has ended"):
                attempt()


def test_a_dead_zygote_is_one_clear_error_for_the_next_sandbox(own_session: Session) -> None:
    with opened_box(own_session):
        pass
    os.kill(own_session.zygote.pid, signal.SIGKILL)
    eventually(lambda: not alive(own_session.zygote.pid))
    for _ in range(2):
        with pytest.raises(NsharnessError, match="the zygote ended unexpectedly"), opened_box(own_session):
            pass


def test_the_session_takes_its_sandboxes_along(short_tmp: Path) -> None:
    with opened_session(short_tmp) as session:
        box = Box(session, Gateway()).__enter__()
        inside = {box.pid, *descendants(box.pid)}
    eventually(lambda: not any(map(alive, inside)))
    with contextlib.suppress(RuntimeError):
        box.__exit__()


def test_an_exception_while_the_sandbox_starts_leaves_the_session_usable(session: Session) -> None:
    with pytest.raises(NsharnessError), opened_box(session, workspace="/nonexistent/folder"):
        pass
    with opened_box(session) as box:
        assert box.out("echo fine") == "fine"


# --- a workload that works against its end ------------------------------------------------------------------

STOPPER = "while :; do kill -STOP {20..80}; done 2>/dev/null"
"""Stops every process as soon as it is there, also the ones that are about to become a program."""


@pytest.fixture
def stopping_box(session: Session) -> Iterator[Box]:
    with opened_box(session) as box:
        box.shell.run(STOPPER + " &")
        # Use up the numbers below those that it stops.
        box.shell.run("for i in {1..15}; do /bin/true; done", 1.0)
        yield box


def test_a_workload_cannot_make_its_first_process_wait_for_ever(stopping_box: Box) -> None:
    begun = time.monotonic()
    with contextlib.suppress(NsharnessError):
        stopping_box.run(["true"], timeout=1.0)
    assert time.monotonic() - begun < 20
    assert stopping_box.alive


def test_a_workload_that_stops_what_is_started_does_not_outlive_its_sandbox(session: Session) -> None:
    """Its first process would wait for the stopped child and not see that its supervisor is gone."""
    with opened_box(session) as box:
        box.shell.run(STOPPER + " &")
        box.shell.run("for i in {1..15}; do /bin/true; done", 1.0)
        inside = {box.pid, *descendants(box.pid)}
        attempts: list[threading.Thread] = []

        def one_was_stopped() -> bool:
            # On a busy machine the stopper is not always quick enough: try again, as long as it has a chance.
            if len(attempts) < 30 and sum(thread.is_alive() for thread in attempts) < 3:
                attempts.append(threading.Thread(target=_try_to_run, args=(box,), daemon=True))
                attempts[-1].start()
            new = map(processes.process, descendants(box.pid) - inside)
            return any(each is not None and each.state == "T" for each in new)

        eventually(one_was_stopped)
        begun = time.monotonic()
    assert time.monotonic() - begun < 4
    eventually(lambda: not any(map(alive, inside)))


def _try_to_run(box: Box) -> None:
    with contextlib.suppress(NsharnessError, OSError, RuntimeError, ValueError):
        box.init.spawn(["true"], [])


@pytest.mark.parametrize(
    "crippled",
    [
        *("--nofile=0", "--nofile=4", "--nproc=0", "--cpu=1", "--fsize=0", "--as=1", "--data=0", "--stack=1"),
        *("--memlock=0", "--sigpending=0", "--core=0"),
    ],
)
def test_limits_put_on_the_first_process_end_the_sandbox_at_worst(fresh_box: Box, crippled: str) -> None:
    """prlimit(2) asks only for the same uid. Whatever it does, the supervisor hears of it and goes on."""
    if fresh_box.bash("prlimit --version").exit_code:
        pytest.skip("no prlimit(1)")
    fresh_box.bash(f"prlimit --pid 1 {crippled}")
    begun = time.monotonic()
    for _ in range(3):
        with contextlib.suppress(NsharnessError):
            fresh_box.shell.run("true", 2.0)
        with contextlib.suppress(NsharnessError):
            fresh_box.run(["true"], timeout=2.0)
    assert time.monotonic() - begun < DEADLINE


def test_priorities_taken_from_the_first_process_change_nothing(fresh_box: Box) -> None:
    fresh_box.bash("renice 19 -p 1; chrt -i -p 0 1; ionice -c 3 -p 1; taskset -p 1 1")
    fresh_box.shell.run("for i in {1..8}; do while :; do :; done & done")
    assert fresh_box.run(["true"], timeout=30).exit_code == 0


@pytest.mark.slow
def test_a_great_many_process_groups_do_no_harm(fresh_box: Box) -> None:
    """A list of them would not fit one message."""
    fresh_box.shell.run("for i in {1..400}; do sleep 60 & done 2>/dev/null", 30)
    assert fresh_box.shell.run("jobs -r | wc -l", 30).stdout == "400\n"
    assert fresh_box.shell.run(
        "for i in {1..100}; do sleep 50 & done 2>/dev/null; while :; do :; done", 1
    ).timed_out
    # Killed they are at once; it takes a moment until each is gone.
    eventually(lambda: fresh_box.shell.run("jobs -r | wc -l", 30).stdout == "400\n")
