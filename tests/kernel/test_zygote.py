"""The zygote and what it makes: a step that fails is named, and leaves nothing and nobody worse off."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import socket
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from nsharness.errors import NsharnessError
from nsharness.frozen import replace
from nsharness.linux import fds, forking
from nsharness.plan.compose import Request, compose
from nsharness.plan.facts import gather
from nsharness.plan.steps import Bind, Directory, File, Plan, Step, Tmpfs
from nsharness.sandbox import assemble, gateway, rtnetlink
from nsharness.sandbox.zygote import prepare
from nsharness.supervisor.child import Child
from tests.support.descriptors import open_now
from tests.support.forked import in_child
from tests.support.processes import alive, descendants
from tests.support.sandboxes import PORTS, needs_sandbox, opened_box, opened_session
from tests.support.tiers import others_slow
from tests.support.waiting import DEADLINE, eventually

pytestmark = needs_sandbox


_CLONE_THREAD = 0x10000  # Together with a new pid namespace it makes no sense.


def own_netns() -> int:
    return Path("/proc/self/ns/net").stat().st_ino


# --- a gateway ----------------------------------------------------------------------------------------------


def test_a_gateway_is_five_listeners_in_a_namespace_of_their_own() -> None:
    def action() -> object:
        prepare()
        before = own_netns()
        made = gateway.create()
        sockets = [socket.socket(fileno=descriptor) for descriptor in made.listeners]
        names = [sock.getsockname() for sock in sockets]
        kinds = [sock.type == socket.SOCK_STREAM for sock in sockets]
        spaces = {os.fstat(made.gateway_netns).st_ino, os.fstat(made.sandbox_netns).st_ino}
        return names, kinds, own_netns() == before, len(spaces | {before})

    assert in_child(action) == [[["0.0.0.0", port] for port in PORTS], [True] * 3 + [False, True], True, 3]


@pytest.mark.parametrize("step", ["_listen", "_write_sysctls", "_transact", "_new_netns"])
def test_a_gateway_that_cannot_be_made_leaves_nothing(step: str) -> None:
    def action() -> object:
        prepare()
        before, space, calls = open_now(), own_netns(), 0
        real = getattr(gateway, step)

        def fails_later(*arguments: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == 2:
                raise OSError(1, "refused")
            return real(*arguments)

        setattr(gateway, step, fails_later)
        try:
            gateway.create()
        except OSError as error:
            return error.strerror, open_now() == before, own_netns() == space
        return "made"

    assert in_child(action) == ["refused", True, True]


def test_a_step_that_the_kernel_refuses_is_named() -> None:
    def action() -> object:
        prepare()
        rtnetlink._VETH = 1  # type: ignore[misc] # the number of the loopback interface
        try:
            gateway.create()
        except OSError as error:
            return error.strerror
        return "made"

    assert str(in_child(action)).startswith("the gateway's network, step 1 (ifinfmsg): ")


# --- a fork -------------------------------------------------------------------------------------------------


def test_a_fork_is_the_first_process_of_its_namespace_and_forks_in_turn() -> None:
    def action() -> object:
        prepare()
        child = forking.fork(os.CLONE_NEWPID)
        if child == 0:
            grandchild = os.fork()
            if grandchild == 0:
                os._exit(os.getpid())
            _, status = os.waitpid(grandchild, 0)
            os._exit(10 * os.getpid() + os.waitstatus_to_exitcode(status))
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    assert in_child(action) == 12


def test_a_fork_that_the_kernel_refuses_leaves_its_caller_as_it_was() -> None:
    def action() -> object:
        try:
            forking.fork(os.CLONE_NEWPID | _CLONE_THREAD)
        except OSError as error:
            child = os.fork()
            if child == 0:
                os._exit(7)
            return error.errno, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        return "forked"

    assert in_child(action) == [errno.EINVAL, 7]


# --- the process --------------------------------------------------------------------------------------------


class Zygote:
    """A zygote, spoken to directly."""

    def __init__(self) -> None:
        self.sock, theirs = fds.message_pair()
        self.sock.settimeout(30)
        with theirs:
            self.child = Child(
                "nsharness.sandbox.zygote", ["--control-fd", str(theirs.fileno())], [theirs.fileno()]
            )
        assert self.receive()[0] == {"event": "ready"}

    def receive(self) -> tuple[dict[str, Any], list[int]]:
        message, descriptors = fds.receive(self.sock)
        assert message is not None
        return message, descriptors

    def ask(self, message: dict[str, Any], *descriptors: int) -> dict[str, Any]:
        fds.send(self.sock, {**message, "tag": "t"}, descriptors)
        reply, received = self.receive()
        while "reply_to" not in reply:  # the end of an earlier sandbox
            reply, received = self.receive()
        fds.close_all(received)
        return reply

    def sandbox(self, plan: bytes) -> dict[str, Any]:
        number = self.ask({"op": "gateway"})["gateway"]
        content = fds.memfd("plan", plan)
        ours, theirs = fds.message_pair()
        with ours, theirs:
            reply = self.ask({"op": "sandbox", "gateway": number}, content, theirs.fileno())
        os.close(content)
        fds.send(self.sock, {"op": "release", "gateway": number})
        return reply


@pytest.fixture
def zygote() -> Iterator[Zygote]:
    made = Zygote()
    yield made
    made.sock.close()
    made.child.end()
    assert not alive(made.child.pid)


def plan(*extra: Step, **changes: Any) -> Plan:
    uid, gid = (os.geteuid() or 4711), (os.getegid() or 4711)
    request = Request("test", uid, gid, "ada", "/home/ada", "10.127.0.1", "http://10.127.0.1:3128")
    made = compose(request, gather())
    steps = (*made.steps[:-1], *extra, made.steps[-1])
    return replace(made, **{"steps": steps, **changes})


def test_a_plan_becomes_a_sandbox(zygote: Zygote) -> None:
    reply = zygote.sandbox(plan().to_json().encode())
    assert reply["event"] == "sandbox"
    assert reply["pid"] > 0


BROKEN: dict[str, tuple[tuple[Step, ...], str]] = {
    "a source that is not there": (
        (Directory("/mnt"), Bind("/nonexistent", "/mnt")),
        "bind       /mnt from /nonexistent",
    ),
    "a place that is not there": ((Tmpfs("/nonexistent", 1 << 20),), "tmpfs      /nonexistent"),
    "a place above the root": ((Tmpfs("/../../tmp", 1 << 20),), "tmpfs      /../../tmp"),
    "a place behind a link": ((Tmpfs("/dev/fd/x", 1 << 20),), "tmpfs      /dev/fd/x"),
    "a file that is there": ((File("/etc/passwd", "x"),), "file       /etc/passwd"),
    "a directory without a parent": ((Directory("/a/b/c"),), "directory  /a/b/c"),
    "a link as a source": (
        (Directory("/mnt"), Bind("/proc/self/cwd", "/mnt")),
        "bind       /mnt from /proc/self/cwd",
    ),
}


@pytest.mark.parametrize("kind", others_slow(BROKEN))
def test_a_step_that_fails_is_named_and_the_next_sandbox_is_made(zygote: Zygote, kind: str) -> None:
    steps, named = BROKEN[kind]
    reply = zygote.sandbox(plan(*steps).to_json().encode())
    assert (reply["event"], reply["what"]) == ("error", "cannot build the sandbox's file system")
    assert named in reply["why"]
    assert zygote.sandbox(plan().to_json().encode())["event"] == "sandbox"


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"[]", b"\xff", json.dumps({"steps": [{"step": "x"}]}).encode()]
)
def test_what_is_no_plan_is_an_error(zygote: Zygote, content: bytes) -> None:
    assert zygote.sandbox(content)["event"] == "error"
    assert zygote.sandbox(plan().to_json().encode())["event"] == "sandbox"


def test_an_unknown_request_and_an_unknown_gateway_are_errors(zygote: Zygote) -> None:
    assert zygote.ask({"op": "nonsense"})["what"] == "unknown request 'nonsense'"
    with Path(os.devnull).open() as null:
        reply = zygote.ask({"op": "sandbox", "gateway": 99}, null.fileno(), null.fileno())
    assert reply["what"] == "gateway 99 does not exist"


def test_the_end_of_the_supervisor_is_its_end(zygote: Zygote) -> None:
    zygote.sock.close()
    assert zygote.child.wait(DEADLINE) == 0


def test_signals_of_a_terminal_are_not_its_business(zygote: Zygote) -> None:
    for number in (1, 2, 15):
        os.kill(zygote.child.pid, number)
    assert zygote.ask({"op": "gateway"})["event"] == "gateway"


def test_it_keeps_the_least(zygote: Zygote) -> None:
    """SYS_ADMIN, NET_ADMIN, SETUID and SETGID; none of them outside its own user namespace without root."""
    lines = Path(f"/proc/{zygote.child.pid}/status").read_text().splitlines()
    status = dict(line.split(":\t", 1) for line in lines)
    assert status["Threads"] == "1"
    assert status["CapInh"] == status["CapAmb"] == "0" * 16
    if os.geteuid() == 0:
        kept = 1 << 21 | 1 << 12 | 1 << 7 | 1 << 6
        assert {int(status[name], 16) for name in ("CapEff", "CapPrm", "CapBnd")} == {kept}
    environment = eventually(lambda: Path(f"/proc/{zygote.child.pid}/cmdline").read_bytes())
    assert b"--control-fd" in environment


@pytest.mark.rootless
def test_without_root_it_is_in_a_user_namespace_of_its_own(zygote: Zygote) -> None:
    assert Path(f"/proc/{zygote.child.pid}/ns/user").stat().st_ino != Path("/proc/self/ns/user").stat().st_ino


# --- the pool -----------------------------------------------------------------------------------------------


def waiting(zygote: int) -> set[int]:
    """First processes without a plan yet: they are in pid namespaces of their own, with the zygote's name."""
    own = _levels(zygote)
    return {pid for pid in descendants(zygote) if _levels(pid) > own and _name(pid) == "nsharness-zygot"}


def _levels(pid: int) -> int:
    """How many pid namespaces a process has a number in (proc_pid_status(5))."""
    with contextlib.suppress(OSError):
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        return next(len(line.split()) - 1 for line in lines if line.startswith("NSpid:"))
    return 0


def _name(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text().strip()
    return ""


def pooled(zygote: Zygote, size: int = 1) -> set[int]:
    """Ask for a pool, and what waits once it is full."""
    fds.send(zygote.sock, {"op": "pool", "size": size})
    return eventually(lambda: found if len(found := waiting(zygote.child.pid)) == size else set())


def test_a_sandbox_takes_the_process_that_waits(zygote: Zygote) -> None:
    (ready,) = pooled(zygote)
    reply = zygote.sandbox(plan().to_json().encode())
    assert (reply["event"], reply["pid"]) == ("sandbox", ready)
    (following,) = eventually(lambda: waiting(zygote.child.pid) - {ready})
    assert zygote.sandbox(plan().to_json().encode())["pid"] == following


def test_it_is_confined_like_any_other(zygote: Zygote) -> None:
    pooled(zygote)
    number = zygote.ask({"op": "gateway"})["gateway"]
    content = fds.memfd("plan", plan().to_json().encode())
    ours, theirs = fds.message_pair()
    with ours:
        with theirs:
            pid = zygote.ask({"op": "sandbox", "gateway": number}, content, theirs.fileno())["pid"]
        os.close(content)
        text = Path(f"/proc/{pid}/status").read_text()
        status = dict(line.split(":\t", 1) for line in text.splitlines())
        assert (status["NoNewPrivs"], status["Seccomp"], status["CapBnd"]) == ("1", "2", "0" * 16)
        assert Path(f"/proc/{pid}/cmdline").read_text().rstrip("\0") == "nsharness-init test"


@pytest.mark.root
def test_what_waits_has_nothing_open_but_what_it_needs(zygote: Zygote) -> None:
    """Its socket, the pipe on which it reports, the zygote's lifeline, the new root that it has begun, and
    Landlock's rules where the kernel has it."""

    def is_settled(pid: int) -> bool:
        places = {int(entry.name): str(entry.readlink()) for entry in Path(f"/proc/{pid}/fd").iterdir()}
        rules = "anon_inode:[landlock-ruleset]"  # Where the kernel has it.
        kept = sorted(
            place.partition(":")[0] for number, place in places.items() if number > 2 and place != rules
        )
        return kept == [assemble._BASE, "pipe", "pipe", "socket"]

    for pid in pooled(zygote, 3):
        # Right after its fork it has what the zygote has.
        eventually(partial(is_settled, pid))


def test_one_that_was_killed_is_not_missed(zygote: Zygote) -> None:
    (ready,) = pooled(zygote)
    os.kill(ready, signal.SIGKILL)
    eventually(lambda: not alive(ready))
    reply = zygote.sandbox(plan().to_json().encode())
    assert reply["event"] == "sandbox"
    assert reply["pid"] != ready


@pytest.mark.parametrize("unused", ["released", "mtls", "user-namespaces", "grouped"])
def test_one_that_does_not_fit_ends(zygote: Zygote, unused: str, tmp_path: Path) -> None:
    (ready,) = pooled(zygote)
    fds.send(zygote.sock, {"op": "pool", "size": 0})
    number = zygote.ask({"op": "gateway", "mtls": unused == "mtls"})["gateway"]
    if unused != "released":
        content = fds.memfd("plan", plan().to_json().encode())
        groups = [os.open(tmp_path / "cgroup.procs", os.O_WRONLY | os.O_CREAT)] if unused == "grouped" else []
        ours, theirs = fds.message_pair()
        with ours, theirs:
            message = {"op": "sandbox", "gateway": number, "user_namespaces": unused == "user-namespaces"}
            reply = zygote.ask(message, content, theirs.fileno(), *groups)
        fds.close_all([content, *groups])
        assert reply["event"] == "sandbox"
        assert reply["pid"] != ready
    fds.send(zygote.sock, {"op": "release", "gateway": number})
    if unused == "mtls":
        assert alive(ready)  # It waits for the next, whose gateway it belongs to.
    else:
        eventually(lambda: not alive(ready))


@pytest.mark.parametrize("how", ["closed", "killed"])
def test_what_waits_ends_with_the_zygote(zygote: Zygote, how: str) -> None:
    left = pooled(zygote, 2)
    if how == "closed":
        zygote.sock.close()
    else:
        os.kill(zygote.child.pid, signal.SIGKILL)
    eventually(lambda: not any(map(alive, left)))


def test_a_workload_sees_nothing_of_what_waits(tmp_path: Path) -> None:
    """It is in no namespace of the workload's, and no signal reaches it."""
    with opened_session(tmp_path) as session:
        session.zygote.pool(1)
        with opened_box(session) as box:
            others = eventually(lambda: waiting(session.zygote.pid))
            listed = box.out("ls /proc | grep -c '^[0-9]'; cat /proc/[0-9]*/comm")
            assert "zygot" not in listed
            for pid in others:
                assert box.bash(f"kill -9 {pid}").exit_code != 0
                assert alive(pid)


def test_a_gateway_that_was_asked_for_in_vain_is_let_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is made while something else is done, and that may fail."""

    def refuse(*_: object) -> None:
        raise NsharnessError("refused")

    with opened_session(tmp_path) as session:
        with opened_box(session):
            pass
        before = open_now()
        zygote = Path(f"/proc/{session.zygote.pid}/fd")
        kept = len(list(zygote.iterdir()))
        with monkeypatch.context() as patch:
            patch.setattr("nsharness.supervisor.sandbox.look", refuse)
            for _ in range(3):
                with pytest.raises(NsharnessError, match="refused"), opened_box(session):
                    pass
        assert open_now() == before
        eventually(lambda: len(list(zygote.iterdir())) <= kept and not waiting(session.zygote.pid))
