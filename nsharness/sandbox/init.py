"""PID 1 of a sandbox: makes the file system, gives up everything, then spawns, signals and reaps.

It is a fork of the zygote without an exec, because set-up needs capabilities that an exec as an ordinary
user would drop; all it needs is imported before the root changes. The workload shares its uid but can
neither signal it (it is the init of a pid namespace, pid_namespaces(7)) nor look into it (undumpable).

Requests on the control socket::

    {"op": "spawn", "id", "argv", "env", "cwd"} + descriptors 0, 1, 2 and further ones   → spawned | failed
        with "terminal": [rows, columns, streams…] those streams are a terminal of its own, the descriptors
        are the others, and the terminal's master comes with the answer
    {"op": "signal", "id", "signal", "scope": "process" | "group"}
    {"op": "note-running", "id"}          → {"event": "noted"}; everything that comes from that process so far
    {"op": "kill-newer", "id"}            (everything that came from it since)

and ``{"event": "exit", "id", "status"}`` whenever a spawned process has ended, status as
``os.waitstatus_to_exitcode`` gives it. End-of-file on the control socket, or on the zygote's lifeline, ends
PID 1, and the kernel ends every other process of the pid namespace with it.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import socket
from collections.abc import Sequence
from typing import Any, Final

from nsharness.frozen import frozen, replace
from nsharness.linux import fds, landlock, libc, open_files, process, seccomp, userns
from nsharness.plan import access
from nsharness.plan.handover import Beginning, unpacked
from nsharness.plan.steps import Plan
from nsharness.sandbox import road, spawn, terminal
from nsharness.sandbox.assemble import Root, StepFailedError
from nsharness.sandbox.report import describe

_KEYCTL_JOIN_SESSION_KEYRING: Final = 1
_REAPED_AT_ONCE: Final = 100
_LINE: Final = 4096
"""More than a line of ``/proc/PID/stat`` has."""


@frozen
class Surroundings:
    """What a first process gets from the zygote before its plan."""

    lifeline: int
    filters: Sequence[seccomp.Compiled]
    beginning: Beginning
    """What its plan will begin with."""


def main(netns: int, plan: int, control: int, status: int, given: Surroundings) -> None:
    """Everything from the fork on, in a mount namespace and others of its own; never returns."""
    try:
        spawn.close_all_but(0, 1, 2, netns, plan, control, status, given.lifeline)
        _serve(_begin(given.beginning), netns, plan, control, status, given)
    except BaseException as error:  # noqa: BLE001 - nothing may get past os._exit
        _report(status, error)
    finally:
        os._exit(1)


def wait(offer: int, status: int, given: Surroundings) -> None:
    """The same for one that is made ahead: what it is to be comes on the socket ``offer``. Never returns."""
    try:
        spawn.close_all_but(0, 1, 2, offer, status, given.lifeline)
        begun = _begin(given.beginning)
        with socket.socket(fileno=offer) as sock:
            _, descriptors = fds.receive(sock)
        if len(descriptors) != 3:
            os._exit(0)  # Nobody has needed it.
        if not begun.root.is_current():
            fds.write_all(status, b"stale\n")
            os._exit(0)
        netns, plan, control = descriptors
        _serve(begun, netns, plan, control, status, given)
    except BaseException as error:  # noqa: BLE001 - as above
        _report(status, error)
    finally:
        os._exit(1)


def _report(status: int, error: BaseException) -> None:
    with contextlib.suppress(OSError):
        fds.write_all(status, json.dumps(describe(error)).encode() + b"\n")


@frozen
class Begun:
    """What there is of a sandbox before its plan."""

    root: Root
    rules: landlock.Ruleset | None
    """What Landlock will allow; None where the kernel has none: doctor tells."""


def _begin(beginning: Beginning) -> Begun:
    """Do what can be done before the plan is known."""
    spawn.point_standard_streams_at_null()
    os.setsid()
    # Whoever started us may have a stricter one: then nobody but root could enter what is made here.
    os.umask(0o022)
    root, rules = Root(), landlock.ruleset()
    if beginning.steps:
        root.take(beginning.steps, beginning.uid, beginning.gid)
        if rules is not None:
            # In a root of our own, in which no link leads out.
            rules.allow(access.grants(beginning.steps), root.path)
    return Begun(root, rules)


def _serve(begun: Begun, netns: int, contents: int, control: int, status: int, given: Surroundings) -> None:
    """Do the rest, and serve until the supervisor or the zygote is gone."""
    os.setns(netns, os.CLONE_NEWNET)
    os.close(netns)
    plan = unpacked(fds.read_line(contents))
    open_files.set_limit(plan.open_files)
    begun.root.take(plan.steps, plan.uid, plan.gid, contents)
    os.close(contents)
    procfs = begun.root.enter()
    confine(plan, procfs, begun.rules, given.filters)
    fds.write_all(status, b"ready\n")
    os.close(status)
    # The steps have been taken. It was by far the most that this process will ever need memory for. Nobody
    # waits for that any more.
    plan = replace(plan, steps=())
    libc.trim()
    signal.signal(signal.SIGCHLD, lambda *_: None)
    Init(socket.socket(fileno=control), given.lifeline, plan).run()
    os._exit(0)


def confine(
    plan: Plan, procfs: int, rules: landlock.Ruleset | None, filters: Sequence[seccomp.Compiled]
) -> None:
    """Enter the workload's user namespace and give up every privilege for good. ``procfs`` is closed.

    Everything that is started inherits all of it, and PID 1 itself serves under it.
    """
    socket.sethostname(plan.hostname)
    process.become_keeping_capabilities(plan.uid, plan.gid)
    process.make_dumpable()
    try:
        userns.enter_new()
        if not plan.user_namespaces:
            userns.forbid_nested(procfs)
    except OSError as error:
        raise StepFailedError(error.errno, f"the workload's user namespace: {error.strerror}") from error
    finally:
        os.close(procfs)
    # The caller's keyring may hold keys (Kerberos, fscrypt): have an empty one of our own. Kernels without
    # keyrings have nothing to leave behind.
    with contextlib.suppress(OSError):
        libc.syscall(libc.syscall_number("keyctl"), _KEYCTL_JOIN_SESSION_KEYRING, None)
    process.limit_bounding_set()
    process.lock_securebits()
    process.set_no_new_privs()
    process.set_capabilities()
    process.make_undumpable()
    process.set_title(f"nsharness-init {plan.sandbox}")
    road.check()
    if rules is not None:
        rules.allow(access.grants(plan.steps))
        rules.restrict()
    seccomp.install(filters)  # Last: what came before needs more.


class Init:
    """The request loop of PID 1."""

    def __init__(self, control: socket.socket, lifeline: int, plan: Plan) -> None:
        self._control = control
        self._lifeline = lifeline
        self._plan = plan
        self._children: dict[int, str] = {}
        self._leaders: set[int] = set()  # Every process started here, ended ones too: each leads a session.
        self._noted: dict[str, set[int]] = {}

    def run(self) -> None:
        """Serve until the supervisor or the zygote is gone."""
        wakeup_read, wakeup_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.set_wakeup_fd(wakeup_write, warn_on_full_buffer=False)
        with selectors.DefaultSelector() as selector:
            for source in (self._control, self._lifeline, wakeup_read):
                selector.register(source, selectors.EVENT_READ)
            more_to_reap = False
            while True:
                ready = {key.fd for key, _ in selector.select(0 if more_to_reap else None)}
                if self._lifeline in ready:
                    return
                if wakeup_read in ready:
                    os.read(wakeup_read, 4096)
                if more_to_reap or wakeup_read in ready:
                    more_to_reap = self._reap()
                if self._control.fileno() in ready:
                    message, descriptors = fds.receive(self._control)
                    if message is None:
                        return
                    try:
                        self._answer(message, descriptors)
                    except spawn.ServedEndedError:
                        return
                    finally:
                        fds.close_all(descriptors)

    def _reap(self) -> bool:
        """Collect what has ended; True when more may have: orphans can end faster than they are collected."""
        for _ in range(_REAPED_AT_ONCE):
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return False
            if pid == 0:
                return False
            identifier = self._children.pop(pid, None)
            if identifier is not None:
                self._noted.pop(identifier, None)
                self._send({"event": "exit", "id": identifier, "status": os.waitstatus_to_exitcode(status)})
        return True

    def _answer(self, message: dict[str, Any], descriptors: list[int]) -> None:
        identifier = str(message.get("id", ""))
        tag = str(message.get("tag", ""))
        match message.get("op"):
            case "spawn":
                self._spawn(identifier, tag, message, descriptors)
            case "signal":
                self._signal(identifier, int(message["signal"]), group=message.get("scope") == "group")
            case "note-running":
                self._noted[identifier] = self._running(identifier)
                self._send({"event": "noted", "reply_to": tag})
            case "kill-newer":
                for target in self._running(identifier) - self._noted.get(identifier, set()):
                    _kill(target, signal.SIGKILL)

    def _spawn(self, identifier: str, tag: str, message: dict[str, Any], descriptors: list[int]) -> None:
        environment = {**self._plan.environment, **message.get("env", {})}
        cwd = message.get("cwd") or self._plan.cwd
        served = (self._control.fileno(), self._lifeline)
        ours: list[int] = []
        try:
            streams, controlling = list(descriptors), None
            if wanted := message.get("terminal"):
                rows, columns, *places = (int(number) for number in wanted)
                ours += terminal.open_pair(rows, columns)
                for controlling in sorted(places):
                    streams.insert(controlling, ours[1])
            pid = spawn.spawn(
                message["argv"], environment, cwd, streams, served, controlling, self._plan.limits.rlimits
            )
            self._children[pid] = identifier
            self._leaders.add(pid)
            self._send({"event": "spawned", "reply_to": tag, "pid": pid}, ours[:1])
        except OSError as error:
            why = f"{error.strerror}: {error.filename}" if error.filename else f"{error.strerror}"
            self._send({"event": "failed", "reply_to": tag, "errno": error.errno or 0, "why": why})
        finally:
            fds.close_all(ours)

    def _pid(self, identifier: str) -> int | None:
        return next((pid for pid, owner in self._children.items() if owner == identifier), None)

    def _signal(self, identifier: str, number: int, *, group: bool) -> None:
        pid = self._pid(identifier)
        if pid is not None:
            _kill(-pid if group else pid, number)

    def _running(self, identifier: str) -> set[int]:
        """What comes from that process, as kill(2) takes it: process groups, and what else is in its own.

        That is its session, and sessions that nobody started from outside: a program in a session of its own
        making (setsid(1)) comes from here too, whoever its parent is by now.
        """
        leader = self._pid(identifier)
        if leader is None:
            return set()
        found = set()
        others = self._leaders - {leader} | {1}
        for name in os.listdir("/proc"):  # noqa: PTH208 - pathlib would be in each sandbox's memory
            if name.isdigit():
                with contextlib.suppress(OSError, ValueError):
                    # After the command name, which may hold anything: state, ppid, pgrp, session.
                    fields = _read(f"/proc/{name}/stat").rpartition(b")")[2].split()
                    pid, group, session = int(name), int(fields[2]), int(fields[3])
                    if session not in others and pid != leader:
                        found.add(pid if group == leader else -group)
        return found

    def _send(self, message: dict[str, Any], descriptors: Sequence[int] = ()) -> None:
        with contextlib.suppress(OSError):
            fds.send(self._control, message, descriptors)


def _read(path: str) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(descriptor, _LINE)
    finally:
        os.close(descriptor)


def _kill(pid: int, number: int) -> None:
    with contextlib.suppress(OSError):  # Gone, not ours, or no signal has that number.
        os.kill(pid, number)
