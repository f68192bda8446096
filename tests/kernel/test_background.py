"""The background supervisor at a terminal, and what it sees of its clients. The rest is in stages."""

from __future__ import annotations

import array
import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from nsharness.background import words
from nsharness.background.client import _wanted
from nsharness.background.peer import _only_there, surroundings
from nsharness.linux.cgroups import Hierarchy
from tests.support.processes import alive, descendants
from tests.support.program import Program, background
from tests.support.sandboxes import needs_sandbox
from tests.support.terminal import Terminal, terminals
from tests.support.tiers import others_slow
from tests.support.waiting import DEADLINE, eventually

pytestmark = needs_sandbox


class Shell(Program):
    """In a terminal: a shell with job control, in which ``$NS`` is the command line."""

    def argv(self, arguments: Sequence[str]) -> list[str]:
        self.environment |= {"NS": " ".join(super().argv(arguments)), "PS1": "shell> "}
        return ["/bin/bash", "--norc", "--noprofile", "-i"]


@pytest.fixture(params=["cold", "warm"])
def environment(request: pytest.FixtureRequest, short_tmp: Path) -> Iterator[dict[str, str]]:
    """There must be no difference."""
    with background(short_tmp) as found:
        yield found if request.param == "warm" else {**found, "NSHARNESS_BACKGROUND": "no"}


@pytest.fixture
def at_shell(short_tmp: Path, environment: dict[str, str]) -> Iterator[Callable[..., Terminal]]:
    with terminals(Shell(short_tmp, environment)) as start:
        yield start


ASKS = "sh -c 'echo rea''dy; while read x; do echo got $x; done'"
STOPPED = {
    "in a pipe": (f"$NS exec --no-workspace -- {ASKS} | cat\n", "\x1a"),
    "with a terminal of its own": (f"$NS exec --no-workspace -- {ASKS}\n", ""),
}


@pytest.mark.slow
@pytest.mark.parametrize("where", STOPPED)
def test_what_is_typed_at_a_shell_is_not_read_by_a_command_that_it_has_stopped(
    at_shell: Callable[..., Terminal], environment: dict[str, str], where: str
) -> None:
    """It could be a password; and what reads it would be in the sandbox. The same after ``bg``: who is in the
    terminal's session is stopped by the kernel once more, when it reads."""
    in_session = "NSHARNESS_BACKGROUND" in environment
    line, key = STOPPED[where]
    terminal = at_shell()
    terminal.expect("shell> ")
    terminal.type(line)
    terminal.expect("ready\n")
    if key:
        terminal.type("before\n")
        terminal.expect("got before\n")
        terminal.type(key)
    else:
        os.kill(os.tcgetpgrp(terminal.master), signal.SIGTSTP)
    for number, command in enumerate([""] if in_session else ["", "bg"]):
        if command:
            terminal.type(f"{command}\n")
        else:
            terminal.expect("Stopped")
        terminal.expect("shell> ")
        terminal.type(f"echo shell $((1 + {number}))\n")
        terminal.expect(f"shell {1 + number}\n")
    terminal.type("fg\n")
    terminal.expect("exec --no-workspace")
    # It may be on its way to be continued still; and then the terminal is the shell's for a moment.
    eventually(lambda: os.tcgetpgrp(terminal.master) != terminal.pid)
    terminal.type("after\n")
    terminal.expect("got after\n")
    terminal.type("\x03")
    terminal.expect("shell> ")


@pytest.fixture
def warm(short_tmp: Path) -> Iterator[Program]:
    with background(short_tmp) as found:
        yield Program(short_tmp, found)


@contextlib.contextmanager
def handed_over(program: Program) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """A client that waits, and the pid of whoever runs its command."""
    argv = program.argv(["exec", "--no-workspace", "--", "sh", "-c", "echo ready; sleep 1000"])
    with subprocess.Popen(
        argv,
        env=program.environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        cwd="/",
        # As a shell has it. Ours may be one that nothing stops: nobody is left in its session who could.
        process_group=0,
    ) as client:
        assert client.stdout is not None
        assert client.stdout.readline() == b"ready\n"
        (supervisor,) = program.supervisors()
        assert supervisor not in {client.pid} | descendants(client.pid)
        yield client, supervisor


def _is_stopped(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


def test_a_client_that_is_killed_while_all_is_stopped_takes_its_run_with_it(warm: Program) -> None:
    """Who is stopped sees no end-of-file."""
    with handed_over(warm) as (client, supervisor):
        client.send_signal(signal.SIGTSTP)
        eventually(lambda: _is_stopped(supervisor))
        client.kill()
        eventually(lambda: not alive(supervisor))


@pytest.mark.slow
def test_a_stopped_client_is_ended_like_any_other(warm: Program) -> None:
    with handed_over(warm) as (client, supervisor):
        client.send_signal(signal.SIGTSTP)
        eventually(lambda: _is_stopped(supervisor))
        client.send_signal(signal.SIGTERM)
        client.send_signal(signal.SIGCONT)
        assert client.wait(DEADLINE) == 128 + signal.SIGTERM


@pytest.mark.parametrize("number", others_slow([signal.SIGTERM, signal.SIGINT, signal.SIGHUP]))
def test_a_signal_that_comes_at_once_is_an_exit_code(warm: Program, number: int) -> None:
    """Before the command line has got round to handling any."""
    request = words.Request(
        [b"exec", b"--no-workspace", b"--", b"sleep", b"1000"],
        {name.encode(): value.encode() for name, value in warm.environment.items()},
        0o022,
        [],
        [("utf-8", "strict")] * words.STREAMS,
    )
    path = Path(warm.environment["XDG_RUNTIME_DIR"], "nsharness", "supervisor")
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock,
        open(os.devnull, "r+b", buffering=0) as nothing,  # noqa: PTH123
        open(os.memfd_create("request"), "r+b", buffering=0) as memory,  # noqa: PTH123
    ):
        memory.write(request.to_bytes())
        folder = os.open("/", os.O_PATH)
        passed = array.array("i", [folder, memory.fileno(), *[nothing.fileno()] * words.STREAMS])
        sock.settimeout(DEADLINE)
        sock.connect(str(path))
        assert sock.recv(words.MAX_WORD).startswith(words.READY)
        sock.sendmsg([words.RUN], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, passed)])
        sock.send(words.SIGNAL + b"%d" % number)
        os.close(folder)
        assert sock.recv(words.MAX_WORD).startswith(words.TAKEN)
        assert sock.recv(words.MAX_WORD) == words.EXIT + b"%d" % (128 + number)


def test_what_asks_its_terminal_starts_cold() -> None:
    assert _wanted(["run", "stage4"])
    assert not _wanted(["run", "stage4", "--hold"])


def test_who_starts_programs_in_another_way_starts_cold() -> None:
    script = "from nsharness.background.client import _wanted; print(_wanted(['exec']))"
    for prefix, answer in ([], "True"), (["setarch", "-R"], "False"):
        done = subprocess.run([*prefix, sys.executable, "-c", script], capture_output=True, text=True)
        assert done.stdout == f"{answer}\n", done.stderr


@pytest.mark.parametrize("what", others_slow(["umask 077", "trap '' TERM"]))
def test_what_a_shell_passes_on_keeps_no_sandbox_from_starting(
    environment: dict[str, str], short_tmp: Path, what: str
) -> None:
    program = Program(short_tmp, environment)
    argv = program.argv(["exec", "--no-workspace", "--", "sh", "-c", "umask; echo done"])
    done = subprocess.run(
        ["sh", "-c", f'{what}; exec "$@"', "sh", *argv],
        env=program.environment,
        capture_output=True,
        text=True,
        cwd="/",
    )
    assert (done.returncode, done.stdout) == (0, "0022\ndone\n"), done.stderr


# --- what is seen of a client -----------------------------------------------------------------------------

SEEN = {
    "scheduling": ["ionice", "-c", "idle"],
    "killed_first": ["choom", "-n", "500", "--"],
}


@pytest.mark.parametrize("name", SEEN)
def test_what_a_client_has_less_of_is_seen(name: str) -> None:
    ours = surroundings()
    with subprocess.Popen([*SEEN[name], "cat"], stdin=subprocess.PIPE) as client:
        eventually(lambda: ours.differs(surroundings(client.pid)) == name)
        assert client.stdin is not None
        client.stdin.close()


@pytest.mark.root
def test_a_root_that_is_the_same_folder_elsewhere_is_another(short_tmp: Path) -> None:
    """What is mounted on it is not there."""
    script = (
        "import os, subprocess, sys\n"
        "subprocess.run(['mount', '--bind', '/', sys.argv[1]], check=True)\n"
        "os.chroot(sys.argv[1]); print('there', flush=True); sys.stdin.read()"
    )
    bound = short_tmp / "bound"
    bound.mkdir()
    ours = surroundings()
    with subprocess.Popen(
        ["unshare", "--mount", sys.executable, "-c", script, str(bound)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as client:
        assert client.stdout is not None
        assert client.stdout.readline() == b"there\n"
        theirs = surroundings(client.pid)
        assert client.stdin is not None
        client.stdin.close()
    # The number of the folder alone does not tell.
    assert theirs.root[:2] == ours.root[:2]
    assert theirs.root != ours.root


@pytest.fixture
def tree(tmp_path: Path) -> Callable[..., Hierarchy]:
    """Folders in the place of control groups."""

    def made(group: str, **files: str) -> Hierarchy:
        folder = tmp_path / group
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            (folder / name.replace("_", ".")).write_text(f"{content}\n")
        return Hierarchy(2, frozenset(), str(tmp_path), str(folder))

    return made


USER = "user.slice/user-1000.slice"
GROUPS = {
    "the same": (f"{USER}/session-2.scope", f"{USER}/session-2.scope", False),
    "another login": (f"{USER}/session-2.scope", f"{USER}/session-c3.scope", False),
    "a terminal": (f"{USER}/session-2.scope", f"{USER}/user@1000.service/app.slice/app-x.scope", False),
    "a service": (f"{USER}/user@1000.service/app.slice/nsharness.service", "system.slice/x.service", True),
    "one below a service": (f"{USER}/session-2.scope", "system.slice/x.service/user@1.service", True),
    "a scope of root's": (f"{USER}/session-2.scope", "system.slice/run-r1.scope", True),
}


@pytest.mark.parametrize("what", GROUPS)
def test_units_of_the_system_may_have_filters_that_no_file_shows(
    tree: Callable[..., Hierarchy], what: str
) -> None:
    ours, theirs, refused = GROUPS[what]
    assert (_only_there([tree(theirs)], [tree(ours)]) is not None) == refused


def test_a_limit_counts_on_the_way_up_and_only_where_it_does_not_hold_for_both(
    tree: Callable[..., Hierarchy],
) -> None:
    limited, below = tree("a", memory_max="1000"), tree("a/b/c")
    free = tree("d", memory_max="max")
    assert _only_there([below], [free]) == limited.own
    assert _only_there([below], [tree("a/e")]) is None
    assert _only_there([free], [below]) is None
