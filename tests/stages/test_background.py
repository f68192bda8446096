"""The background supervisor: what it may be asked by whom, what it hands on, and that nothing of it stays.
That its runs are like any others is what ``test_exec`` tests, once with and once without it."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from nsharness.background import words
from nsharness.background.peer import surroundings
from tests.support.processes import alive, descendants
from tests.support.program import Program, Running, background
from tests.support.sandboxes import needs_sandbox
from tests.support.tiers import others_slow
from tests.support.waiting import DEADLINE, eventually, readable

pytestmark = needs_sandbox

COLD, WARM = "cold", "warm"


@pytest.fixture
def program(short_tmp: Path) -> Iterator[Program]:
    with background(short_tmp) as environment:
        yield Program(short_tmp, environment)


def place(program: Program) -> Path:
    return Path(program.environment["XDG_RUNTIME_DIR"], "nsharness")


def daemon(program: Program) -> int:
    return int((place(program) / "lock").read_text())


def spares(program: Program) -> set[int]:
    """Processes that wait for a command; not their helpers."""
    return {pid for pid in descendants(daemon(program)) if os.getsid(pid) == pid and _title(pid) == "up"}


def one_spare(program: Program) -> set[int]:
    """The spare, once it is there, and its helpers are what they will be."""
    return eventually(lambda: found if len(found := spares(program)) == 1 else set())


def _title(pid: int) -> str:
    with contextlib.suppress(OSError, IndexError):
        return Path(f"/proc/{pid}/cmdline").read_text().split("\0")[4]
    return ""


@contextlib.contextmanager
def running(program: Program, *arguments: str) -> Iterator[tuple[Running, int]]:
    """A command that runs, and the pid of whoever supervises its run."""
    with program.start("exec", "--no-workspace", "--", *arguments) as started:
        started.expect("ready")
        (supervisor,) = program.supervisors()
        yield started, supervisor


def how(program: Program, prefix: list[str]) -> str:
    """How a command that is started behind ``prefix`` runs: as its own supervisor, or through a spare."""
    arguments = ["exec", "--no-workspace", "--", "sh", "-c", "echo ready; read line"]
    process = subprocess.Popen(
        [*prefix, *program.argv(arguments)],
        env=program.environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd="/",
    )
    with process:
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stdout.readline() == b"ready\n"
        (supervisor,) = program.supervisors()
        below = {process.pid} | descendants(process.pid)
        process.stdin.close()
    assert process.returncode == 1
    return COLD if supervisor in below else WARM


def test_a_command_is_handed_over(program: Program) -> None:
    assert how(program, []) == WARM
    assert how(program, ["env", "NSHARNESS_BACKGROUND=no"]) == COLD


CONFINED = {
    "no-new-privs": ["setpriv", "--no-new-privs"],
    "time-namespace": ["unshare", "--user", "--map-current-user", "--time"],
    "ipc-namespace": ["unshare", "--user", "--map-current-user", "--ipc"],
    "limit": ["prlimit", "--nofile=512:512"],
    "nice": ["nice", "-n", "5"],
    "sudo": ["env", "SUDO_UID=12345"],
}


@pytest.mark.parametrize("name", others_slow(CONFINED))
def test_who_is_confined_gets_nothing_from_it(program: Program, name: str) -> None:
    """Neither more than what it could start itself, nor out of what holds it."""
    prefix = CONFINED[name]
    if name.endswith("namespace") or name == "sudo":
        # A sandbox cannot be started there: what is asked is only whether the spare was taken.
        before = one_spare(program)
        done = subprocess.run(
            [*prefix, *program.argv(["exec", "--no-workspace", "--", "true"])],
            env=program.environment,
            capture_output=True,
            cwd="/",
        )
        assert done.returncode in (0, 125)
        eventually(lambda: spares(program) == before)
    else:
        assert how(program, prefix) == COLD


def test_a_weakened_look_does_not_see_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same comparison, without the part that tells."""
    ours = surroundings()
    with subprocess.Popen(["setpriv", "--no-new-privs", "cat"], stdin=subprocess.PIPE) as confined:
        eventually(lambda: b"NoNewPrivs:\t1" in Path(f"/proc/{confined.pid}/status").read_bytes())
        assert ours.differs(surroundings(confined.pid)) == "status"
        monkeypatch.setattr("nsharness.background.peer._STATUS", ("Uid", "Gid"))
        assert surroundings().differs(surroundings(confined.pid)) is None
        assert confined.stdin is not None
        confined.stdin.close()


@pytest.mark.root
def test_another_user_gets_nothing_even_with_the_folder_open(program: Program) -> None:
    """Nobody but the owner reaches the socket; and whoever reached it would be refused."""
    for path in (place(program).parent.parent, place(program).parent, place(program)):
        path.chmod(0o755)
    (place(program) / "supervisor").chmod(0o777)
    script = (
        "import os, socket, sys; os.setgid(54321); os.setuid(54321)\n"
        "s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET); s.connect(sys.argv[1])\n"
        "print(s.recv(4096).decode())"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(place(program) / "supervisor")], capture_output=True, text=True
    )
    assert done.stdout == "no it is another user's\n", done.stderr


@pytest.mark.parametrize("what", ["folder", "link"])
def test_a_place_that_others_could_have_made_is_not_trusted(program: Program, what: str) -> None:
    """Somebody else could be listening there, and would get the environment."""
    folder, moved = place(program), place(program).with_name("elsewhere")
    before = one_spare(program)
    if what == "folder":
        folder.chmod(0o770)
    else:
        folder.rename(moved)
        folder.symlink_to(moved)
    try:
        assert program("exec", "--no-workspace", "--", "echo", "done").stdout == "done\n"
        eventually(lambda: spares(program) == before)
        refused = program("up")
        assert (refused.returncode, refused.stderr.count("\n")) == (125, 1)
        assert "nobody else may use" in refused.stderr
    finally:
        if what == "folder":
            folder.chmod(0o700)
        else:
            folder.unlink()
            moved.rename(folder)


def test_a_workload_does_not_see_it(program: Program) -> None:
    runtime = program.environment["XDG_RUNTIME_DIR"]
    done = program("exec", "--no-workspace", "--", "sh", "-c", f"ls {runtime}; env; ls -l /proc/self/fd")
    assert runtime not in done.stdout
    assert "supervisor" not in done.stdout
    assert "No such file" in done.stderr


def test_one_run_gets_nothing_of_another(program: Program) -> None:
    """Environment, working directory, umask and arguments are the client's own, and new for each."""
    first = program("exec", "--no-workspace", "--env", "ONLY_HERE", "--", "env", env={"ONLY_HERE": "1"})
    assert "ONLY_HERE=1\n" in first.stdout
    second = program("exec", "--no-workspace", "--env", "ONLY_HERE", "--", "env")
    assert second.returncode == 125
    assert "ONLY_HERE" in second.stderr


@pytest.mark.slow
def test_a_large_environment_and_many_arguments(program: Program) -> None:
    environment = {f"NAME_{number}": "x" * 10_000 for number in range(100)}
    arguments = [f"argument-{number}" for number in range(500)]
    done = program("exec", "--no-workspace", "--", "sh", "-c", "echo $#", "sh", *arguments, env=environment)
    assert done.stdout == "500\n", done.stderr


def test_whoever_waits_is_told_how_it_ended(program: Program) -> None:
    with running(program, "sh", "-c", "echo ready; exec sleep 1000") as (started, supervisor):
        assert supervisor != started.process.pid
        started.process.send_signal(signal.SIGTERM)
        assert started.wait() == 128 + signal.SIGTERM
    with running(program, "sh", "-c", "echo ready; exec sleep 1000") as (started, supervisor):
        os.kill(supervisor, signal.SIGKILL)
        assert started.wait() == 125
        assert started.lines[-1] == (
            "nsharness: the process that the command was handed to ended unexpectedly"
        )
    assert program("gc").returncode == 0


@pytest.mark.slow
def test_a_client_that_is_killed_takes_its_run_with_it(program: Program) -> None:
    with running(program, "sh", "-c", "trap '' HUP TERM; echo ready; sleep 1000") as (started, supervisor):
        below = {supervisor} | descendants(supervisor)
        started.process.kill()
        eventually(lambda: not any(map(alive, below)))
    assert json.loads(program("ps", "--json").stdout) == []


@pytest.mark.slow
def test_a_spare_that_was_killed_is_not_missed(program: Program) -> None:
    eventually(lambda: spares(program))
    for pid in spares(program):
        os.kill(pid, signal.SIGKILL)
    assert program("exec", "--no-workspace", "--", "echo", "done").stdout == "done\n"


@pytest.mark.slow
def test_a_helper_of_a_spare_that_was_killed_is_started_again(program: Program) -> None:
    (spare,) = one_spare(program)
    helpers = eventually(lambda: descendants(spare))
    for pid in helpers:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    assert program("exec", "--no-workspace", "--", "echo", "done").stdout == "done\n"


def test_runs_go_on_when_it_ends_and_spares_do_not(short_tmp: Path) -> None:
    runtime = short_tmp / "rt"
    runtime.mkdir(mode=0o700)
    program = Program(short_tmp, {"XDG_RUNTIME_DIR": str(runtime)})
    up = program("up")
    assert (up.returncode, up.stderr) == (0, "")
    pid = daemon(program)
    assert up.stdout == f"the background supervisor is running (pid {pid})\n"
    assert program("up").stdout == up.stdout
    for path, mode in ((place(program), 0o700), (place(program) / "supervisor", 0o600)):
        assert path.stat().st_mode & 0o777 == mode
    with running(program, "sh", "-c", "echo ready; exec sleep 1000") as (started, supervisor):
        waiting = spares(program) - {supervisor}
        down = program("down")
        assert (down.returncode, down.stdout) == (0, "the background supervisor has ended\n")
        eventually(lambda: not any(map(alive, waiting)))
        assert alive(supervisor)
        assert program("down").stdout == "no background supervisor is running\n"
        assert program("exec", "--no-workspace", "--", "echo", "cold").stdout == "cold\n"
        started.process.send_signal(signal.SIGTERM)
        assert started.wait() == 128 + signal.SIGTERM
    assert not (place(program) / "supervisor").exists()


@pytest.mark.slow
def test_a_killed_one_is_replaced_and_leaves_no_spare(short_tmp: Path) -> None:
    runtime = short_tmp / "rt"
    runtime.mkdir(mode=0o700)
    program = Program(short_tmp, {"XDG_RUNTIME_DIR": str(runtime)})
    assert program("up").returncode == 0
    below = descendants(daemon(program))
    os.kill(daemon(program), signal.SIGKILL)
    eventually(lambda: not any(map(alive, below)))
    assert program("exec", "--no-workspace", "--", "echo", "cold").stdout == "cold\n"
    assert program("up").returncode == 0
    assert how(program, []) == WARM
    assert program("down").returncode == 0


def test_it_ends_when_nobody_asks(short_tmp: Path) -> None:
    with Idle(short_tmp) as idle:
        assert idle.wait() == 0
    assert not (short_tmp / "rt" / "nsharness" / "supervisor").exists()


class Idle(Running):
    """One with little patience."""

    def __init__(self, folder: Path) -> None:
        runtime = folder / "rt"
        runtime.mkdir(mode=0o700)
        program = Program(folder, {"XDG_RUNTIME_DIR": str(runtime)})
        super().__init__(program.argv(["up", "--foreground", "--idle", "0.2"]), program.environment)


def test_a_socket_of_systemds_is_used(short_tmp: Path) -> None:
    """sd_listen_fds(3), sd_notify(3)."""
    runtime = short_tmp / "rt"
    (runtime / "nsharness").mkdir(mode=0o700, parents=True)
    runtime.chmod(0o700)
    path, told = runtime / "nsharness" / "supervisor", short_tmp / "told"
    program = Program(short_tmp, {"XDG_RUNTIME_DIR": str(runtime)})
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified,
    ):
        sock.bind(str(path))
        sock.listen()
        notified.bind(str(told))

        def become() -> None:
            os.dup2(sock.fileno(), 3)
            os.environ["LISTEN_PID"] = str(os.getpid())
            argv = program.argv(["up", "--foreground"])
            os.execve(argv[0], argv, {**os.environ, **environment})

        environment = {**program.environment, "LISTEN_FDS": "1", "NOTIFY_SOCKET": str(told)}
        pid = os.fork()
        if pid == 0:
            try:
                become()
            finally:
                os._exit(127)
        try:
            assert readable(notified.fileno(), 6 * DEADLINE)
            assert notified.recv(100) == b"READY=1"
            assert how(program, []) == WARM
        finally:
            os.kill(pid, signal.SIGTERM)
            code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        assert code == 0
        assert path.exists()  # systemd's, which goes on listening there


@pytest.mark.slow
def test_what_is_no_request_is_not_carried_out(program: Program) -> None:
    """A client that says something else, or sends other descriptors, gets no answer; the next one does."""
    for message, passed in ((b"walk", 5), (words.RUN, 3), (words.RUN, 5)):
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
            sock.connect(str(place(program) / "supervisor"))
            assert sock.recv(4096).startswith(words.READY)
            opened = os.open("/", os.O_PATH)
            nothing = os.memfd_create("request")
            os.write(nothing, b"9999\0")
            socket.send_fds(sock, [message], [opened, nothing, opened, opened, opened][:passed])
            sock.settimeout(DEADLINE)
            with contextlib.suppress(ConnectionResetError):
                assert sock.recv(4096) == b""
            os.close(opened)
            os.close(nothing)
    assert how(program, []) == WARM


@pytest.mark.slow
def test_changed_code_is_not_served(program: Program, short_tmp: Path) -> None:
    """Whoever installs another version must not get the old one."""
    script = (
        "import sys; sys.argv = ['nsharness', *sys.argv[1:]]\n"
        "import nsharness.background.daemon as d\n"
        f"d._PACKAGES = ({str(short_tmp / 'package')!r},)\n"
        "from nsharness.cli.command import main; sys.exit(main(sys.argv[1:]))"
    )
    package = short_tmp / "package"
    package.mkdir()
    (package / "a.py").write_text("1")
    runtime = short_tmp / "other"
    runtime.mkdir(mode=0o700)
    other = Program(short_tmp, {"XDG_RUNTIME_DIR": str(runtime)})
    argv = [sys.executable, "-I", "-c", script, "up", "--foreground"]
    with Running(argv, other.environment) as started:
        eventually((runtime / "nsharness" / "supervisor").exists)
        (package / "a.py").write_text("22")
        assert how(other, []) == COLD
        assert started.wait() == 0


def test_soft_limits_of_its_own_are_no_difference() -> None:
    """The limit on core dumps is taken to nothing by every run."""
    before = surroundings()
    soft, hard = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, hard))
    try:
        assert surroundings() == before
    finally:
        resource.setrlimit(resource.RLIMIT_CORE, (soft, hard))


def test_units_for_systemd(tmp_path: Path) -> None:
    units = Program(tmp_path)("up", "--systemd", "--idle", "60").stdout
    assert "ListenSequentialPacket=%t/nsharness/supervisor" in units
    assert f"{sys.executable} -I -m nsharness.cli up --foreground --idle 60 --spares 1" in units
