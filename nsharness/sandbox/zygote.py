"""The zygote: a small single-threaded process that makes gateways and forks sandboxes.

It exists because namespaces can only be entered by a process without threads, because a fork of a large
process is slow, and because pyroute2 should be imported once. It never sees a credential. Without
privileges it enters a user namespace of its own first; that one owns every network, mount and pid namespace
it makes, so that a workload, one user namespace further down, can change none of them.

Requests on the control socket: ``gateway``, ``sandbox``, ``release``, ``pool``, ``prepare`` and
``beginning``. End-of-file there ends the zygote and, through the lifeline that every sandbox's PID 1
watches, all its sandboxes.

While a gateway is made, a first process begins already. With a pool both are made ahead: when nothing else is
to be done for a moment, so that nobody waits for it. ``prepare`` makes one of each.
"""

from __future__ import annotations

if __name__ == "__main__":
    # Before all that follows: it imports meanwhile.
    from nsharness.sandbox.encoding import encoder

    encoder()

import contextlib
import gc
import os
import selectors
import signal
import socket
import sys
from collections import deque
from typing import Any, Final

from nsharness.errors import ASK_DOCTOR, NsharnessError
from nsharness.linux import fds, libc, mounts, open_files, process, seccomp, userns
from nsharness.plan import syscalls
from nsharness.plan.handover import Beginning
from nsharness.sandbox import first, gateway, init, spawn
from nsharness.sandbox.report import describe

_REST: Final = 0.005
"""Seconds: whoever has just got a sandbox starts something in it, and would share processor and locks."""
_KEPT: Final = frozenset(
    {process.CAP_SYS_ADMIN, process.CAP_NET_ADMIN, process.CAP_SETUID, process.CAP_SETGID}
)


class Zygote:
    """The request loop and the gateways that it keeps."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._gateways: dict[int, gateway.Gateway] = {}
        self._next_gateway = 1
        self._pool_size = 0
        self._pool: deque[tuple[gateway.Gateway, first.Waiting | None]] = deque()
        self._waiting: dict[int, first.Waiting] = {}
        # Gateways whose sandboxes somebody is about to ask for, and with what their plans may begin.
        self._expected: dict[int, Beginning] = {}
        self._beginning = Beginning()
        self._compiled: dict[bool, tuple[seccomp.Compiled, ...]] = {}
        # Its writing end is held by this process alone: when the zygote is gone, however it went, every
        # sandbox sees end-of-file on its copy of the reading end.
        self._lifeline, self._lifeline_held = os.pipe2(os.O_CLOEXEC)

    def warm_up(self) -> None:
        """Have what every sandbox needs, while the supervisor does something else. Whoever asks for a sandbox
        is told why it is not to be had."""
        with contextlib.suppress(NsharnessError):
            self._filters(user_namespaces=False)
        with contextlib.suppress(NsharnessError):
            gateway.datagrams()

    def run(self) -> None:
        """Serve until the supervisor is gone."""
        wakeup_read, wakeup_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(wakeup_write, warn_on_full_buffer=False)
        with selectors.DefaultSelector() as selector:
            selector.register(self._control, selectors.EVENT_READ)
            selector.register(wakeup_read, selectors.EVENT_READ)
            while True:
                wanting = len(self._pool) < self._pool_size and not self._expected
                ready = selector.select(_REST if wanting else None)
                if not ready and wanting:
                    self._fill()
                for key, _ in ready:
                    if key.fileobj is self._control:
                        message, descriptors = fds.receive(self._control)
                        if message is None:
                            return
                        self._answer(message, descriptors)
                    else:
                        os.read(wakeup_read, 4096)
                self._reap()

    @staticmethod
    def _reap() -> None:
        """Let go of first processes that have ended, which the supervisor sees by itself."""
        while True:
            try:
                if os.waitpid(-1, os.WNOHANG)[0] == 0:
                    return
            except ChildProcessError:
                return

    def _answer(self, message: dict[str, Any], descriptors: list[int]) -> None:
        tag = str(message.get("tag", ""))
        try:
            match message.get("op"):
                case "gateway":
                    mtls, ahead = message.get("mtls") is True, message.get("ahead") is True
                    self._make_gateway(tag, mtls=mtls, ahead=ahead)
                case "sandbox":
                    wanted = int(message["gateway"]), message.get("user_namespaces") is True
                    self._make_sandbox(tag, *wanted, int(message.get("beginning", 0)), *descriptors)
                case "beginning":
                    self._beginning = Beginning.from_json(fds.read_all(descriptors[0]))
                case "release":
                    number = int(message["gateway"])
                    self._expected.pop(number, None)
                    if (waiting := self._waiting.pop(number, None)) is not None:
                        waiting.close()
                    if (made := self._gateways.pop(number, None)) is not None:
                        made.close()
                case "pool":
                    self._pool_size = int(message["size"])
                case "prepare":
                    self._fill()
                case unknown:
                    raise NsharnessError(f"unknown request {unknown!r}")
        except (OSError, NsharnessError) as error:
            self._send({"event": "error", "reply_to": tag, **describe(error)})
        finally:
            fds.close_all(descriptors)

    def _fill(self) -> None:
        """Make one more gateway ahead, with a first process. A refusal is told to whoever asks for one."""
        try:
            made = gateway.create()
        except (OSError, NsharnessError):
            self._pool_size = 0
            return
        self._pool.append((made, self._ahead()))

    def _ahead(self) -> first.Waiting | None:
        with contextlib.suppress(OSError, NsharnessError):
            return first.ahead(self._surroundings(self._beginning, user_namespaces=False))
        return None

    def _make_gateway(self, tag: str, *, mtls: bool, ahead: bool) -> None:
        if mtls or not self._pool:
            # It begins while we make the network, and while the supervisor makes the plan.
            waiting = self._ahead() if ahead else None
            try:
                made = gateway.create(gateway.MTLS_PORT if mtls else gateway.PROXY_PORT)
            except BaseException:
                if waiting is not None:
                    waiting.close()
                raise
        else:
            made, waiting = self._pool.popleft()
        number, self._next_gateway = self._next_gateway, self._next_gateway + 1
        if waiting is not None:
            self._waiting[number] = waiting
        # What the plan may leave out, because the process that waits begins with it.
        beginning = waiting.beginning if waiting is not None else Beginning()
        self._expected[number] = beginning
        answer = {"gateway": number, "beginning": beginning.number}
        self._send({"event": "gateway", "reply_to": tag, **answer}, made.listeners)
        # The supervisor has the listeners now; only the namespaces stay here.
        fds.close_all(made.listeners)
        self._gateways[number] = gateway.Gateway((), made.gateway_netns, made.sandbox_netns)

    def _filters(self, *, user_namespaces: bool) -> tuple[seccomp.Compiled, ...]:
        """Compiled once, some milliseconds, for all sandboxes; ``NsharnessError`` when that is impossible."""
        if user_namespaces not in self._compiled:
            wanted = syscalls.filters(user_namespaces=user_namespaces)
            self._compiled[user_namespaces] = seccomp.Library().compile(wanted)
        return self._compiled[user_namespaces]

    def _surroundings(self, beginning: Beginning, *, user_namespaces: bool) -> init.Surroundings:
        filters = self._filters(user_namespaces=user_namespaces)
        return init.Surroundings(self._lifeline, filters, beginning)

    def _make_sandbox(
        self,
        tag: str,
        number: int,
        user_namespaces: bool,
        beginning: int,
        plan: int,
        control: int,
        *groups: int,
    ) -> None:
        if number not in self._gateways:
            raise NsharnessError(f"gateway {number} does not exist")
        promised = self._expected.pop(number, Beginning())
        waiting = self._waiting.pop(number, None)
        if beginning not in (0, promised.number):
            raise NsharnessError("cannot build a sandbox", why=f"no plan begins with number {beginning}")
        before = promised if beginning else Beginning()
        # One that waits is in its namespaces already: too late for groups, and its filters are what they are.
        if waiting is not None and (groups or user_namespaces or waiting.beginning != before):
            waiting.close()
            waiting = None
        netns = self._gateways[number].sandbox_netns
        made = waiting.first if waiting is not None and waiting.give(netns, plan, control) else None
        if made is None or not made.await_ready():
            given = self._surroundings(before, user_namespaces=user_namespaces)
            made = first.start(netns, plan, control, given, groups)
            made.await_ready()
        # The process cannot be gone for good: nobody but this loop reaps it.
        pidfd = os.pidfd_open(made.pid)
        try:
            self._send({"event": "sandbox", "reply_to": tag, "pid": made.pid}, (pidfd,))
        finally:
            os.close(pidfd)

    def _send(self, message: dict[str, Any], descriptors: tuple[int, ...] = ()) -> None:
        try:
            fds.send(self._control, message, descriptors)
        except OSError:
            return  # The supervisor is gone; end-of-file follows.


def prepare() -> None:
    """Enter the namespaces of the zygote itself and give up what it does not need.

    ``OSError`` when the kernel forbids one of them.
    """
    process.become_subreaper()
    flags = os.CLONE_NEWNS | os.CLONE_NEWNET
    if os.geteuid() == 0:
        os.unshare(flags)
        process.limit_bounding_set(_KEPT)
        process.set_capabilities(_KEPT)
    else:
        userns.enter_new(flags)
    # A host that unmounts something must not find it pinned here; nothing of ours propagates back.
    libc.mount(None, "/", None, mounts.MS_REC | mounts.MS_SLAVE)


def main() -> int:
    """``python -I -m nsharness.sandbox.zygote --control-fd N``."""
    (control_fd,) = fds.given(sys.argv[1:], "--control-fd")
    control = socket.socket(fileno=control_fd)
    os.set_inheritable(control.fileno(), False)
    process.set_name("nsharness-zygote")
    open_files.raise_limit()  # Two for each gateway, and its sandboxes may be many.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # Terminal signals are the supervisor's business: it ends us by closing the socket.
        signal.signal(number, signal.SIG_IGN)
    spawn.ignored()  # Found out once, for all sandboxes.
    try:
        prepare()
    except OSError as error:
        report = describe(error)
        report["what"] = "cannot make namespaces"
        report["hint"] = ASK_DOCTOR
        fds.send(control, {"event": "error", **report})
        return 1
    fds.send(control, {"event": "ready"})
    zygote = Zygote(control)
    zygote.warm_up()
    # What is there by now never changes: keep it out of the collector's way, and so out of the memory that
    # children would otherwise copy.
    gc.collect()
    gc.freeze()
    zygote.run()
    return 0


if __name__ == "__main__":
    # Without taking the interpreter apart: whoever waits for our end waits for that, too.
    os._exit(main())
