"""What a workload must not outlive, end or touch: its own sandbox, and processes of the host."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from nsharness.linux import cgroups
from nsharness.linux.identity import Identity
from nsharness.plan.steps import Bind, Proc, Step
from tests.support.attacks import Assault, changing, interpreter, prelude, weak_box, with_plan
from tests.support.processes import alive, descendants
from tests.support.sandboxes import Box, needs_sandbox, opened_box
from tests.support.waiting import DEADLINE, eventually

pytestmark = [needs_sandbox, pytest.mark.xdist_group("escape-lifetime")]


def _hosts_proc(step: Step) -> Step:
    return Bind(step.path, step.path) if isinstance(step, Proc) else step


HOSTS_PROCESSES = with_plan("processes of the host", changing(_hosts_proc), "hosts_processes", "no_landlock")


@pytest.fixture(scope="module", autouse=True)
def _no_control_groups() -> Iterator[None]:
    """One with a survivor in it could not be removed, and here there are survivors."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cgroups, "available", cgroups.Available)
        yield


# --- processes of the host ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def victim(identity: Identity) -> Iterator[int]:
    """A process of the person, who is the workload's user as well."""
    user = identity.workload_uid if identity.privileged else None
    with subprocess.Popen(
        ["sleep", "600"], user=user, group=user, extra_groups=[] if user else None
    ) as process:
        yield process.pid
        process.kill()


def test_no_process_of_the_host_can_be_signalled(assault: Assault, victim: int) -> None:
    script = "done(lambda: os.kill(int(sys.argv[1]), signal.SIGCONT))"
    assault.python(HOSTS_PROCESSES, script, str(victim))


def test_no_process_of_the_host_can_be_held_on_to(assault: Assault, victim: int) -> None:
    assault.python(HOSTS_PROCESSES, "done(lambda: os.pidfd_open(int(sys.argv[1])))", str(victim))


def test_no_process_of_the_host_can_be_slowed_down(assault: Assault, victim: int) -> None:
    script = "done(lambda: os.setpriority(os.PRIO_PROCESS, int(sys.argv[1]), 19))"
    assault.python(HOSTS_PROCESSES, script, str(victim))


def test_no_process_of_the_host_can_be_moved_to_another_processor(assault: Assault, victim: int) -> None:
    script = "done(lambda: os.sched_setaffinity(int(sys.argv[1]), os.sched_getaffinity(0)))"
    assault.python(HOSTS_PROCESSES, script, str(victim))


def test_no_limit_of_a_process_of_the_host_can_be_changed(assault: Assault, victim: int) -> None:
    script = """
import resource
done(lambda: resource.prlimit(int(sys.argv[1]), resource.RLIMIT_CORE, (0, 0)))"""
    assault.python(HOSTS_PROCESSES, script, str(victim))


def test_processes_of_the_host_cannot_be_listed(assault: Assault, victim: int) -> None:
    script = 'grep -q sleep "/proc/$1/cmdline" && echo ESCAPED'
    assault.shell(HOSTS_PROCESSES, script, str(victim))


# --- the sandbox itself -------------------------------------------------------------------------------------

SIGNAL_INIT = """
name = f'nsharness-init {socket.gethostname()}'.encode()
for pid in filter(str.isdigit, os.listdir('/proc')):
    try:
        with open(f'/proc/{pid}/cmdline', 'rb') as file: line = file.read()
    except OSError: continue
    if line.strip(b'\\0 ') == name:
        print('found', flush=True)
        os.kill(int(pid), int(sys.argv[1]))
"""


def signal_init(box: Box, number: signal.Signals) -> None:
    """As the workload; it must have found the first process."""
    done = box.run(
        [interpreter(box), "-I", "-c", prelude() + SIGNAL_INIT, str(int(number))], timeout=DEADLINE
    )
    assert done.stdout in (b"found\n", b""), done


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT])
def test_init_cannot_be_ended(assault: Assault, number: signal.Signals) -> None:
    with weak_box(assault.session(HOSTS_PROCESSES.flaws), HOSTS_PROCESSES) as weakened:
        with contextlib.suppress(Exception):  # its end may come before the answer
            signal_init(weakened, number)
        assert weakened.wait(DEADLINE)
    with opened_box(assault.session()) as confined:
        signal_init(confined, number)
        assert confined.out("echo goes on") == "goes on"
        assert confined.alive


def test_init_cannot_be_stopped(assault: Assault) -> None:
    def stopped(box: Box) -> bool:
        return Path(f"/proc/{box.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"

    with weak_box(assault.session(HOSTS_PROCESSES.flaws), HOSTS_PROCESSES) as weakened:
        with contextlib.suppress(Exception):  # nobody is left to answer
            weakened.spawn(
                [interpreter(weakened), "-I", "-c", prelude() + SIGNAL_INIT, str(int(signal.SIGSTOP))], []
            )
        eventually(lambda: stopped(weakened))
        os.kill(weakened.pid, signal.SIGCONT)
    with opened_box(assault.session()) as confined:
        signal_init(confined, signal.SIGSTOP)
        assert not stopped(confined)
        assert confined.out("echo goes on") == "goes on"


DAEMONS = {
    "a daemon": "setsid -f sleep 61",
    "deaf to every signal": "setsid -f bash -c 'trap \"\" {1..64} 2>/dev/null; sleep 61; sleep 61'",
    "stopped": "setsid -f bash -c 'kill -STOP $$; sleep 61'",
}


@pytest.mark.parametrize("daemon", DAEMONS)
def test_nothing_outlives_its_sandbox(assault: Assault, daemon: str) -> None:
    start = f"{DAEMONS[daemon]} > /dev/null 2>&1"
    # Without a pid namespace, who loses its parent becomes the zygote's child.
    session = assault.session(HOSTS_PROCESSES.flaws)
    known = descendants(session.zygote.pid)

    def survivors() -> set[int]:
        return set(filter(alive, descendants(session.zygote.pid) - known))

    with weak_box(session, HOSTS_PROCESSES) as weakened:
        weakened.out(start)
        eventually(lambda: survivors() - {weakened.pid})
    outlived = survivors()
    eventually(lambda: _none_left_of(survivors()))
    assert outlived
    with opened_box(assault.session()) as confined:
        confined.out(start)
        inside = eventually(lambda: descendants(confined.pid))
    assert not any(map(alive, inside))


def _none_left_of(pids: set[int]) -> bool:
    """Whether there are none; if there are, they are killed."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return not pids
