"""What a workload must not use up: processes, memory, files, and what it must not give itself back."""

from __future__ import annotations

import resource
from pathlib import Path
from typing import Any

import pytest

from nsharness.errors import NsharnessError
from nsharness.plan.steps import Bind, Directory
from tests.support.attacks import ESCAPED, Assault, Weakness, adding, weakness, with_plan
from tests.support.sandboxes import Box, needs_sandbox, opened_box

pytestmark = [needs_sandbox, pytest.mark.xdist_group("escape-resources")]

CGROUPS = "/sys/fs/cgroup"
UNLIMITED = Weakness("unlimited", profile=(("limits", {}),))
CORES = weakness("dumpable_init")
HOSTS_GROUPS = with_plan(
    "control groups of the host",
    adding(Directory("/sys"), Directory("/sys/fs"), Directory(CGROUPS), Bind(CGROUPS, CGROUPS)),
)


@pytest.fixture(scope="module")
def profile() -> dict[str, Any]:
    return {"limits": {"pids": 60, "tmp": "1MB", "open_files": 256}}


# --- processes ----------------------------------------------------------------------------------------------

_MANY = 200
_CLEAR = """
def clear():
    for name in os.listdir('/proc'):
        if name.isdigit() and int(name) not in (1, os.getpid()):
            try: os.kill(int(name), signal.SIGKILL)
            except OSError: pass
"""


def test_a_fork_bomb_stays_inside(assault: Assault) -> None:
    script = f"""
children = []
try:
    for _ in range({_MANY}):
        child = os.fork()
        if child == 0:
            signal.pause()
        children.append(child)
    escaped()
except OSError as error: print(error)
for child in children: os.kill(child, signal.SIGKILL)"""
    assault.python(UNLIMITED, script)


def test_processes_that_leave_their_session_count_too(assault: Assault) -> None:
    script = f"""
read, write = os.pipe()
for _ in range({_MANY}):
    try:
        if os.fork() == 0:
            os.setsid()
            try:
                if os.fork() == 0:
                    os.write(write, b'x')
                    signal.pause()
            finally: os._exit(0)
        os.wait()
    except OSError as error: print(error); break
os.set_blocking(read, False)
try: born = len(os.read(read, 65536))
except BlockingIOError: born = 0
running = sum(name.isdigit() for name in os.listdir('/proc'))
if running > {_MANY}: escaped()
clear()"""
    assault.python(UNLIMITED, _CLEAR + script)


def test_a_bomb_of_threads_stays_inside(assault: Assault) -> None:
    script = f"""
import threading
end = threading.Event()
try:
    for _ in range({_MANY}): threading.Thread(target=end.wait, daemon=True).start()
    escaped()
except RuntimeError as error: print(error)
end.set()"""
    assault.python(UNLIMITED, script)


# --- memory and files ---------------------------------------------------------------------------------------


def test_memory_ends_at_its_limit(assault: Assault) -> None:
    """Of the whole sandbox where there are control groups; elsewhere of a process, which is all there is."""
    script = "head -c 150000000 /dev/zero | tail -n 1 | wc -c | grep -q 150000000 && echo ESCAPED"
    with opened_box(assault.session()) as unlimited:
        assert unlimited.out(script) == ESCAPED
    with opened_box(assault.session(), limits={"memory": "64MiB", "best_effort": True}) as limited:
        assert not _prints(limited, script)


def _prints(box: Box, script: str) -> bool:
    try:
        return ESCAPED in box.bash(script).stdout.decode()
    except NsharnessError:
        return box.ended_by is None


@pytest.mark.parametrize("folder", ["/tmp", "/var/tmp", "/dev/shm", "/run", "~"])
def test_a_private_place_cannot_be_filled_beyond_its_size(assault: Assault, folder: str) -> None:
    script = f"head -c 3000000 /dev/zero > {folder}/x && echo ESCAPED; rm {folder}/x"
    assault.shell(UNLIMITED, script)


def test_holes_count_once_they_are_filled(assault: Assault) -> None:
    script = "done(lambda: os.posix_fallocate(os.open('/tmp/y', os.O_RDWR | os.O_CREAT), 1 << 20, 1 << 21))"
    assault.python(UNLIMITED, script + "\nos.unlink('/tmp/y')")


def test_files_cannot_be_opened_without_end(assault: Assault) -> None:
    assault.python(UNLIMITED, "done(lambda: [os.open('/dev/null', os.O_RDONLY) for _ in range(400)])")


def test_sockets_count_as_open_files(assault: Assault) -> None:
    assault.python(UNLIMITED, "done(lambda: [socket.socketpair() for _ in range(200)])")


def test_a_limit_cannot_be_raised_again(assault: Assault) -> None:
    script = """
import resource
try: resource.setrlimit(resource.RLIMIT_NOFILE, (400, 400)); escaped()
except ValueError as error: print(error)"""
    assault.python(UNLIMITED, script)


def test_cores_cannot_be_asked_for(assault: Assault) -> None:
    """Where ``core_pattern`` names a program, the host's would be given the workload's memory."""
    script = """
import resource
try: resource.setrlimit(resource.RLIMIT_CORE, (4096, 4096)); escaped()
except ValueError as error: print(error)"""
    if resource.getrlimit(resource.RLIMIT_CORE)[1] == 0:
        # As sudo(8) has it for others: we may not ask either, and to leave the layer out changes nothing.
        assert assault.box().out("ulimit -Sc; ulimit -Hc").split() == ["0", "0"]
        return
    assault.python(CORES, script)


def test_control_groups_are_out_of_reach(assault: Assault) -> None:
    if not any(Path(CGROUPS).iterdir()):
        pytest.skip("this host shows no control groups")
    assault.shell(HOSTS_GROUPS, f"ls {CGROUPS}/* && echo ESCAPED")
