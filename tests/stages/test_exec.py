"""``nsharness exec``, as a person uses it: real processes, real namespaces, the real command line."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import termios
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.processes import alive, descendants
from tests.support.program import Program, background
from tests.support.terminal import Terminal, terminals
from tests.support.tiers import others_slow
from tests.support.waiting import DEADLINE, eventually

pytestmark = pytest.mark.kernel("userns", "procfs", "veth", "mount_setattr", "pidfd")


@pytest.fixture(params=["cold", pytest.param("warm", marks=pytest.mark.slow)])
def program(tmp_path: Path, short_tmp: Path, request: pytest.FixtureRequest) -> Iterator[Program]:
    """Every test is about both ways to start: there must be no difference."""
    if request.param == "cold":
        yield Program(tmp_path)
        return
    with background(short_tmp) as environment:
        yield Program(tmp_path, environment)


@contextlib.contextmanager
def started(
    program: Program, *arguments: str, stdin: int | None = None, stdout: int = -1, stderr: int | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Runs with these streams; gone at the end of the block."""
    process = subprocess.Popen(
        program.argv(arguments),
        env=program.environment,
        cwd="/",
        start_new_session=True,
        stdin=stdin,
        stdout=stdout,
        stderr=stderr,
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGHUP)  # Killed, it could not clear away after itself.
        process.wait(DEADLINE)
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None:
                stream.close()


def test_streams_and_exit_code_are_the_programs(program: Program) -> None:
    script = "cat; echo apart >&2; exit 7"
    content = bytes(range(256)) * 8192
    with started(
        program, "exec", "--", "sh", "-c", script, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        out, err = process.communicate(content, timeout=60)
    assert (process.returncode, err) == (7, b"apart\n")
    assert out == content


@pytest.mark.slow
def test_a_closed_output_is_a_broken_pipe_inside(program: Program) -> None:
    with started(
        program, "exec", "--", "sh", "-c", "yes; echo $? >&2", stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.read(4) == b"y\ny\n"
        process.stdout.close()
        assert process.stderr.readline().strip() in (b"141", b"yes: standard output: Broken pipe")


def test_a_regular_file_is_not_handed_over(program: Program, tmp_path: Path) -> None:
    """After pivot_root, one was overwritten through /proc/self/fd/0, though it was opened for reading."""
    path = tmp_path / "kept"
    path.write_text("as it was")
    script = "cat; echo overwritten >/proc/self/fd/0; ls -d /proc/self/fd/0/.. 2>&1; true"
    with path.open("rb") as file:
        attack = ["exec", "--", "sh", "-c", script]
        done = subprocess.run(
            program.argv(attack),
            stdin=file,
            capture_output=True,
            env=program.environment,
            timeout=60,
            cwd="/",
        )
        # The same without a sandbox: the descriptor itself is what makes it possible.
        assert done.stdout.startswith(b"as it was")
        assert path.read_text() == "as it was"
        os.lseek(file.fileno(), 0, os.SEEK_SET)
        subprocess.run(["sh", "-c", script], stdin=file, capture_output=True)
    assert path.read_text() == "overwritten\n"


def test_a_directory_for_input_starts_nothing(program: Program) -> None:
    """One that was handed over listed the host's root. (The interpreter itself refuses it.)"""
    folder = os.open("/", os.O_RDONLY)
    done = subprocess.run(
        program.argv(["exec", "--", "true"]), stdin=folder, capture_output=True, env=program.environment
    )
    os.close(folder)
    assert done.returncode != 0
    assert not list(program.state.rglob("runs/*"))


def test_a_closed_stream_does_not_become_a_file_of_ours(program: Program) -> None:
    """The next file that is opened gets its number, and that may be one with secrets."""
    closed = ["sh", "-c", 'exec "$@" <&-', "sh", *program.argv(["exec", "--", "cat"])]
    done = subprocess.run(closed, capture_output=True, env=program.environment)
    assert (done.returncode, done.stdout) == (0, b"")


def test_signals_are_the_programs_to_handle(program: Program) -> None:
    script = "trap 'echo caught; exit 3' TERM; echo ready; while :; do sleep 0.05; done"
    with started(program, "exec", "--", "bash", "-c", script) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        below = descendants(process.pid)
        process.send_signal(signal.SIGTERM)
        assert process.stdout.readline() == b"caught\n"
        assert process.wait(DEADLINE) == 3
    eventually(lambda: not any(map(alive, below)))


@pytest.mark.slow
def test_after_its_time_everything_is_gone(program: Program) -> None:
    done = program("exec", "--timeout", "1", "--json", "--", "sh", "-c", "echo begun; sleep 1000")
    result = json.loads(done.stdout)
    assert done.returncode == result["exit_code"] == 124
    assert (result["timed_out"], result["stdout"]) == (True, "begun\n")


@pytest.mark.slow
def test_a_limit_that_ends_it_is_said_and_is_the_exit_code(program: Program, short_tmp: Path) -> None:
    (short_tmp / "profile.toml").write_text("limits = { wall = 0.5 }\n")
    profile = str(short_tmp / "profile.toml")
    done = program("exec", "--profile", profile, "--", "sleep", "1000")
    assert done.returncode == 124
    assert "limits.wall" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.slow
def test_what_was_denied_is_in_the_result(program: Program) -> None:
    done = program("exec", "--json", "--", "curl", "-s", "-o", "/dev/null", "http://example.com/x")
    (denied,) = json.loads(done.stdout)["denied"]
    assert (denied["host"], denied["path"], denied["reason"]) == ("example.com", "/x", "host-not-allowed")


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    others_slow(
        [
            (["exec", "--", "no-such-program"], 127),
            (["exec", "--", "/etc/passwd"], 126),
            (["exec", "--", "sh", "-c", "kill -TERM $$"], 143),
        ]
    ),
)
def test_exit_codes_are_those_of_shells(program: Program, arguments: list[str], wanted: int) -> None:
    assert program(*arguments).returncode == wanted


WRONG = {
    "no command": (["exec"], "CMD"),
    "a host with a scheme": (["exec", "--allow", "https://example.com", "--", "true"], "scheme"),
    "a value in place of a template": (
        ["exec", "--inject", "a.example: X = hunter22", "--", "true"],
        "template",
    ),
    "a header with a newline": (
        ["exec", "--inject", "a.example: X = {{ a.b }}\nY", "--", "true"],
        "--inject",
    ),
    "a secret that is not there": (
        ["exec", "--inject", "a.example: X = {{ a.b }}", "--", "true"],
        "secret set a",
    ),
    "a variable that is not set": (["exec", "--env", "NOT_SET_HERE", "--", "true"], "NOT_SET_HERE"),
    "a directory for a profile": (["exec", "--profile", "/", "--", "true"], "is a directory"),
    "no time": (["exec", "--timeout", "0", "--", "true"], "timeout"),
}


@pytest.mark.parametrize("what", others_slow(WRONG, 2))
def test_bad_input_is_one_line_and_nothing_starts(program: Program, what: str) -> None:
    arguments, wanted = WRONG[what]
    done = program(*arguments)
    assert (done.returncode, done.stdout) == (125, "")
    assert wanted in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert "hunter22" not in done.stderr
    assert not list(program.state.rglob("runs/*"))


@pytest.mark.slow
def test_a_profile_in_the_workspace_counts_once_it_is_trusted(program: Program, short_tmp: Path) -> None:
    """A workload could have written it."""
    folder = short_tmp / "work"
    folder.mkdir()
    short_tmp.chmod(0o755)  # for the workload of root, who is nobody here
    (folder / "nsharness.toml").write_text('env = { GREETING = "hello" }\n')
    ask = ["exec", "--", "sh", "-c", "echo $GREETING"]
    refused = program(*ask, cwd=folder)
    assert (refused.returncode, refused.stdout) == (125, "")
    assert "nsharness trust" in refused.stderr
    assert program("trust", cwd=folder).returncode == 0
    assert program(*ask, cwd=folder).stdout == "hello\n"
    (folder / "nsharness.toml").write_text('env = { GREETING = "something else" }\n')
    assert program(*ask, cwd=folder).returncode == 125


@pytest.mark.slow
def test_a_profile_in_the_workspace_takes_away_from_ones_own(program: Program, short_tmp: Path) -> None:
    """Nobody has trusted it, and it need not be trusted for that."""
    folder = short_tmp / "work"
    folder.mkdir()
    short_tmp.chmod(0o755)
    program.environment["XDG_CONFIG_HOME"] = str(short_tmp / "config")
    own = short_tmp / "config" / "nsharness" / "user.toml"
    own.parent.mkdir(parents=True)
    rule = '[[sandbox_proxy_rules]]\nname = "a"\nhosts = ["a.test", "b.test"]\n'
    own.write_text(f'[env]\nGREETING = "hello"\n{rule}')
    ask = ["exec", "--", "sh", "-c", "echo $GREETING; getent hosts a.test b.test | wc -l"]
    assert program(*ask, cwd=folder).stdout == "hello\n2\n"
    (folder / "nsharness.toml").write_text('[[only]]\nhosts = ["b.test"]\n')
    assert program(*ask, cwd=folder).stdout == "hello\n1\n"
    (folder / "nsharness.toml").write_text('[[sandbox_proxy_rules]]\nname = "x"\nhosts = ["evil.test"]\n')
    assert program(*ask, cwd=folder).stdout == "hello\n0\n"
    (folder / "nsharness.toml").write_text('upstreams = { "a.test:443" = "127.0.0.1:1" }\n')
    refused = program(*ask, cwd=folder)
    assert (refused.returncode, refused.stdout) == (125, "")
    assert "upstreams.a.test:443: your own profile does not map it so" in refused.stderr


# --- at a terminal ----------------------------------------------------------------------------------------


@pytest.fixture
def at_terminal(program: Program) -> Iterator[Callable[..., Terminal]]:
    with terminals(program) as start:
        yield start


@pytest.mark.slow
def test_an_interactive_shell_at_a_terminal(at_terminal: Callable[..., Terminal]) -> None:
    terminal = at_terminal("shell")
    terminal.resize(11, 77)
    terminal.type("PS1='$ '; stty size; echo term=$TERM\n")
    terminal.expect("\n11 77\nterm=xterm-256color\n")
    terminal.resize(12, 78)
    terminal.type("sh -c 'echo $((1 + 1)) there; exec sleep 1000'\n")
    terminal.expect("\n2 there\n")
    terminal.type("\x03")
    terminal.expect(r"\^C")
    # The signal that tells of a new size is on its way through several processes.
    terminal.type("until [ \"$(stty size)\" = '12 78' ]; do sleep 0.01; done; stty size; exit 5\n")
    terminal.expect("\n12 78\n")
    before = termios.tcgetattr(terminal.master)
    assert terminal.wait() == 5
    after = termios.tcgetattr(terminal.master)
    assert before[3] & (termios.ECHO | termios.ICANON) == 0  # raw while it ran
    assert after[3] & (termios.ECHO | termios.ICANON) == termios.ECHO | termios.ICANON


@pytest.mark.slow
def test_when_the_terminal_goes_away_everything_ends(
    program: Program, at_terminal: Callable[..., Terminal]
) -> None:
    terminal = at_terminal("exec", "--", "bash", "-c", "trap '' HUP; echo ready; sleep 1000")
    terminal.expect("ready")
    (supervisor,) = program.supervisors()
    below = {supervisor} | descendants(supervisor)
    assert len(below) > 3
    os.close(terminal.master)
    assert os.waitstatus_to_exitcode(os.waitpid(terminal.pid, 0)[1]) == 129
    eventually(lambda: not any(map(alive, below)))


@pytest.mark.slow
def test_a_live_run_is_entered_with_a_terminal(
    program: Program, at_terminal: Callable[..., Terminal]
) -> None:
    hold = at_terminal("exec", "--", "sh", "-c", "echo ready; sleep 1000")
    hold.expect("ready")
    (run,) = (entry["run"] for entry in json.loads(program("ps", "--json").stdout))
    inside = at_terminal("enter", run, "--", "sh", "-c", "tty; stty size; echo $TERM; exit 4")
    inside.resize(9, 71)
    inside.expect("/dev/pts/[0-9]+\n")
    inside.expect("xterm-256color\n")
    assert inside.wait() == 4
    assert program("stop", run).returncode == 0
    assert hold.wait() == 129


@pytest.mark.parametrize("how", others_slow([[], ["--allow", "known.example"]]))
def test_a_proxy_that_cannot_live_is_told_of_and_changes_no_exit_code(
    program: Program, how: list[str]
) -> None:
    # Until nobody listens any more: 7 is that in curl(1).
    script = "echo it runs; until curl -s -o /dev/null http://192.0.2.1/; [ $? = 7 ]; do :; done; exit 3"
    with started(
        program, "exec", *how, "--", "sh", "-c", script, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == b"it runs\n"
        (supervisor,) = program.supervisors()

        def over() -> bool:
            """Each proxy is started again at once, but not for ever."""
            for pid in filter(_is_proxy, descendants(supervisor)):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            return process.poll() is not None

        assert eventually(over)
        told = process.stderr.read()
    assert process.returncode == 3
    assert told.startswith(b"nsharness: there was no proxy: ")
    assert told.count(b"\n") == 1


def _is_proxy(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return "nsharness_proxy" in Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    return False
