"""The way into a running run: what it answers, what it refuses, and that nobody can block it."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nsharness.linux import fds
from nsharness.supervisor import control as module
from nsharness.supervisor.client import connect, peer_uid, request
from nsharness.supervisor.control import ControlServer
from nsharness.supervisor.session import Session
from tests.support.descriptors import open_now
from tests.support.processes import alive, descendants
from tests.support.sandboxes import Box, needs_sandbox
from tests.support.waiting import DEADLINE, eventually, readable

pytestmark = needs_sandbox


@pytest.fixture
def stops() -> list[bool]:
    return []


@pytest.fixture
def server(session: Session, box: Box, stops: list[bool]) -> Iterator[ControlServer]:
    with ControlServer(session, box, lambda: stops.append(True)) as opened:
        yield opened


@pytest.fixture
def client(session: Session, server: ControlServer) -> Iterator[socket.socket]:
    del server
    with connect(session.run) as sock:
        sock.settimeout(DEADLINE)
        yield sock


def ask(client: socket.socket, message: dict[str, Any], descriptors: tuple[int, ...] = ()) -> dict[str, Any]:
    fds.send(client, message, descriptors)
    return answer(client)


def answer(client: socket.socket) -> dict[str, Any]:
    reply, received = fds.receive(client)
    assert received == []
    assert reply is not None
    return reply


def goes_on(session: Session) -> bool:
    reply = request(session.run, {"op": "status"})
    return reply is not None and reply["alive"] is True


def test_status_names_the_run_and_its_processes(client: socket.socket, session: Session, box: Box) -> None:
    reply = ask(client, {"op": "status"})
    assert reply == {
        "event": "status",
        "run": session.run.id,
        "pid": os.getpid(),
        "init": box.pid,
        "alive": True,
    }


def test_stop_is_answered_before_it_is_done(client: socket.socket, stops: list[bool]) -> None:
    assert ask(client, {"op": "stop"}) == {"event": "stopping"}
    eventually(lambda: stops)


def test_the_socket_is_there_as_long_as_the_run_and_for_its_owner_alone(session: Session, box: Box) -> None:
    with ControlServer(session, box, lambda: None):
        assert session.run.control_path.is_socket()
        assert session.run.path.stat().st_mode & 0o077 == 0
    assert not session.run.control_path.exists()
    assert request(session.run, {"op": "status"}) is None


def test_somebody_else_is_not_served(session: Session, box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "peer_uid", lambda _: 4711)
    with ControlServer(session, box, lambda: None), connect(session.run) as sock:
        sock.settimeout(DEADLINE)
        with contextlib.suppress(BrokenPipeError):
            fds.send(sock, {"op": "status"})
        with contextlib.suppress(ConnectionResetError):
            assert fds.receive(sock) == (None, [])


def test_the_kernel_says_who_is_there() -> None:
    one, other = fds.message_pair()
    with one, other:
        assert peer_uid(one) == os.getuid()


# --- programs -----------------------------------------------------------------------------------------------


class Program:
    """Pipes of a program that a client starts."""

    def __init__(self, client: socket.socket, *argv: str, **options: Any) -> None:
        self.client = client
        (in_read, self.stdin), (self.stdout, out_write) = os.pipe(), os.pipe()
        if os.geteuid() == 0:
            os.fchmod(in_read, 0o666)
        self.reply = ask(client, {"op": "spawn", "argv": argv, **options}, (in_read, out_write, out_write))
        fds.close_all([in_read, out_write])

    def finish(self) -> tuple[bytes, int]:
        os.close(self.stdin)
        with os.fdopen(self.stdout, "rb") as stream:
            output = stream.read()
        return output, int(answer(self.client)["status"])


def test_a_program_is_started_and_its_end_is_told(client: socket.socket) -> None:
    program = Program(
        client, "bash", "-c", "read -r line; echo got $line $A; pwd; exit 5", env={"A": "b"}, cwd="/usr"
    )
    assert program.reply["event"] == "spawned"
    os.write(program.stdin, b"hello\n")
    assert program.finish() == (b"got hello b\n/usr\n", 5)


def test_a_start_is_told_before_the_end(client: socket.socket) -> None:
    for _ in range(30):
        program = Program(client, "true")
        assert program.reply["event"] == "spawned"
        assert program.finish() == (b"", 0)


def test_a_program_that_cannot_be_started_is_an_error_with_an_exit_code(client: socket.socket) -> None:
    program = Program(client, "nonexistent-program")
    assert (program.reply["event"], program.reply["exit_code"]) == ("error", 127)
    os.close(program.stdin)
    os.close(program.stdout)
    assert ask(client, {"op": "status"})["event"] == "status"


def test_a_signal_goes_to_the_program(client: socket.socket) -> None:
    program = Program(
        client, "bash", "-c", "trap 'echo caught; exit 6' TERM; echo ready; while :; do :; done"
    )
    assert readable(program.stdout)
    fds.send(client, {"op": "signal", "signal": signal.SIGTERM})
    assert program.finish() == (b"ready\ncaught\n", 6)


def test_a_program_is_killed_when_its_client_goes_away(
    session: Session, server: ControlServer, box: Box
) -> None:
    del server
    before = descendants(box.pid)
    with connect(session.run) as sock:
        sock.settimeout(DEADLINE)
        program = Program(sock, "bash", "-c", "trap '' TERM HUP INT; while :; do :; done")
        assert len(descendants(box.pid)) > len(before)
    eventually(lambda: not [pid for pid in descendants(box.pid) - before if alive(pid)])
    os.close(program.stdin)
    os.close(program.stdout)


def test_only_pipes_come_in(client: socket.socket, tmp_path: Path) -> None:
    """K25: a descriptor of a directory would be a way out, one of a file a way to change it."""
    (tmp_path / "file").write_text("x")
    for path in (tmp_path, tmp_path / "file"):
        descriptor = os.open(path, os.O_RDONLY)
        reply = ask(client, {"op": "spawn", "argv": ["true"]}, (descriptor, descriptor, descriptor))
        os.close(descriptor)
        assert (reply["event"], reply["what"]) == ("error", "cannot hand this descriptor to the sandbox")
    one, other = fds.message_pair()
    with one, other:
        reply = ask(client, {"op": "spawn", "argv": ["true"]}, (one.fileno(),))
        assert reply["why"] == "it is a socket"


# --- what makes no sense ------------------------------------------------------------------------------------

NONSENSE: list[Any] = [
    *(b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 60_000, b'{"op": ' + b"9" * 5000 + b"}"),
    *({}, {"op": None}, {"op": "nonsense"}, {"op": ["stop"]}, {"op": "signal", "signal": 9}, {"op": "spawn"}),
    *({"op": "spawn", "argv": []}, {"op": "spawn", "argv": 7}, {"op": "spawn", "argv": "true"}),
    *(
        {"op": "spawn", "argv": ["true"], "env": [1]},
        {"op": "spawn", "argv": ["true"], "cwd": "/nonexistent"},
    ),
    *(
        {"op": "spawn", "argv": ["true"], "cwd": 3},
        {"op": "spawn", "argv": ["a\0b"]},
        {"op": "spawn", "argv": [""]},
    ),
    *(
        {"op": "spawn", "argv": ["true"], "env": {"A=B": "c", "": "d"}},
        {"op": "spawn", "argv": ["x" * 60_000]},
    ),
    *({"op": "spawn", "argv": ["\ud800"]}, {"op": "spawn", "argv": [None, {}]}),
]


@pytest.mark.parametrize("message", NONSENSE, ids=lambda message: repr(message)[:40])
def test_a_message_that_makes_no_sense_harms_nobody(
    client: socket.socket, session: Session, box: Box, message: object, capfd: pytest.CaptureFixture[str]
) -> None:
    before = open_now()
    if isinstance(message, bytes):
        client.send(message)
    else:
        assert isinstance(message, dict)
        fds.send(client, message)
    client.settimeout(0.05)
    with contextlib.suppress(TimeoutError, ConnectionResetError, ValueError):
        fds.receive(client)
    assert goes_on(session)
    assert box.out("echo goes on") == "goes on"
    client.close()
    eventually(lambda: len(open_now()) < len(before))
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize("number", [0, -1, 65, 10**6])
def test_a_signal_that_is_none_harms_nobody(client: socket.socket, box: Box, number: int) -> None:
    program = Program(client, "cat")
    fds.send(client, {"op": "signal", "signal": number})
    assert box.out("echo goes on") == "goes on"
    assert program.finish() == (b"", 0)


def test_a_client_that_does_not_read_blocks_nobody(session: Session, server: ControlServer, box: Box) -> None:
    del server
    null = os.open(os.devnull, os.O_RDWR)
    with connect(session.run) as deaf:
        deaf.setblocking(False)
        for _ in range(400):
            try:
                fds.send(deaf, {"op": "spawn", "argv": ["true"]}, (null, null, null))
            except BlockingIOError:
                break
        done = threading.Event()

        def work() -> None:
            box.run(["true"])
            session.hub.flush()
            done.set()

        threading.Thread(target=work, daemon=True).start()
        assert done.wait(DEADLINE)
        assert goes_on(session)
    os.close(null)


def test_many_clients_are_served_at_once(session: Session, server: ControlServer) -> None:
    del server
    clients = [connect(session.run) for _ in range(30)]
    for sock in clients:
        sock.settimeout(DEADLINE)
        assert ask(sock, {"op": "status"})["alive"]
    for sock in clients:
        sock.close()


# --- enter --------------------------------------------------------------------------------------------------


def enter(
    session: Session, *argv: str, stdin: bytes = b"", **options: Any
) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        enter_argv(session, *argv), input=stdin, capture_output=True, timeout=30, **environment(session)
    )


def enter_argv(session: Session, *argv: str) -> list[str]:
    return [sys.executable, "-I", "-m", "nsharness.cli", "enter", session.run.id, "--", *argv]


def environment(session: Session) -> dict[str, Any]:
    state = str(session.run.path.parent.parent.parent)
    return {"env": {"XDG_STATE_HOME": state, "PATH": os.environ["PATH"], "CANARY": "canary-7e1d"}, "cwd": "/"}


@pytest.fixture
def entered(session: Session, server: ControlServer) -> Session:
    del server
    return session


@pytest.mark.parametrize(
    ("script", "code"), [("exit 0", 0), ("exit 7", 7), ("kill -TERM $$", 143), ("exit 255", 255)]
)
def test_enter_has_the_exit_code_of_the_command(entered: Session, script: str, code: int) -> None:
    assert enter(entered, "bash", "-c", script).returncode == code


def test_enter_tells_what_cannot_be_run(entered: Session) -> None:
    done = enter(entered, "nonexistent-program")
    assert (done.returncode, done.stdout) == (127, b"")
    assert done.stderr.startswith(b"nsharness: cannot run 'nonexistent-program'")
    assert enter(entered, "/etc/passwd").returncode == 126


def test_enter_relays_all_three_streams(entered: Session) -> None:
    data = os.urandom(1 << 20)
    done = enter(entered, "bash", "-c", "echo error >&2; cat", stdin=data)
    assert (done.stdout, done.stderr) == (data, b"error\n")


def test_who_enters_is_confined_like_everybody(entered: Session, box: Box) -> None:
    """K25."""
    script = "cat /proc/self/status; readlink /proc/self/ns/*; env; ls /; : < /dev/tty"
    done = enter(entered, "bash", "-c", script)
    inside = done.stdout.decode()
    for line in ("CapEff:\t0000000000000000", "CapBnd:\t0000000000000000", "NoNewPrivs:\t1"):
        assert line in inside
    assert "canary" not in inside
    spaces = box.out("readlink /proc/self/ns/*").split()
    assert all(space in inside for space in spaces)
    assert box.out("ls /") in inside
    assert b"No such device or address" in done.stderr


def test_enter_forwards_ctrl_c(entered: Session) -> None:
    script = "trap 'echo caught; exit 9' INT; echo ready; while :; do :; done"
    with subprocess.Popen(
        enter_argv(entered, "bash", "-c", script),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        **environment(entered),
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(signal.SIGINT)
        assert process.stdout.read() == b"caught\n"
        assert process.wait(DEADLINE) == 9
