"""First processes: forks of the zygote that become PID 1 of a sandbox, at once or once they have a plan."""

from __future__ import annotations

import json
import os
import signal
import socket
from collections.abc import Callable, Sequence
from typing import Final

from nsharness.errors import NsharnessError
from nsharness.frozen import frozen
from nsharness.linux import fds, forking
from nsharness.plan.handover import Beginning
from nsharness.sandbox import init
from nsharness.sandbox.report import describe

_NAMESPACES: Final = os.CLONE_NEWNS | os.CLONE_NEWPID | os.CLONE_NEWIPC | os.CLONE_NEWUTS | os.CLONE_NEWCGROUP


@frozen
class First:
    """A first process and the pipe on which it says how it went, its own end and nobody else's."""

    pid: int
    status: int

    def await_ready(self) -> bool:
        """Return when it serves, confined; False when it has ended because something that it mounted ahead
        is not what it was. ``NsharnessError`` says why it does not serve otherwise."""
        with os.fdopen(self.status, "rb") as stream:
            report = stream.read().splitlines()
        if report not in ([b"ready"], [b"stale"]):
            raise _failure(report)
        return report == [b"ready"]


@frozen
class Waiting:
    """One that waits for its plan on the other end of ``offer``, and what that has to begin with."""

    first: First
    offer: socket.socket
    beginning: Beginning

    def give(self, netns: int, plan: int, control: int) -> bool:
        """Let it go on; False when somebody has killed it. Either way it waits no more."""
        with self.offer:
            try:
                fds.send(self.offer, {}, (netns, plan, control))
            except OSError:
                os.close(self.first.status)
                return False
        return True

    def close(self) -> None:
        """Nobody needs it: it sees the end of its socket, and ends."""
        self.offer.close()
        os.close(self.first.status)


def start(netns: int, plan: int, control: int, given: init.Surroundings, groups: Sequence[int] = ()) -> First:
    """One that has its plan and its control socket."""
    return _fork(groups, lambda status: init.main(netns, plan, control, status, given))


def ahead(given: init.Surroundings) -> Waiting:
    """One whose network and whose plan are not known yet."""
    ours, theirs = fds.message_pair()
    with theirs:
        first = _fork((), lambda status: init.wait(theirs.fileno(), status, given))
    return Waiting(first, ours, given.beginning)


def _fork(groups: Sequence[int], become_init: Callable[[int], None]) -> First:
    status_read, status_write = os.pipe2(os.O_CLOEXEC)
    try:
        pid = forking.fork(_NAMESPACES & os.CLONE_NEWPID)
        if pid == 0:
            _enter(groups, status_write, become_init)
    except BaseException:
        os.close(status_read)
        raise
    finally:
        os.close(status_write)
    return First(pid, status_read)


def _enter(groups: Sequence[int], status: int, become_init: Callable[[int], None]) -> None:
    """In the new process; never returns."""
    try:
        signal.set_wakeup_fd(-1)  # The zygote's. Its handler of SIGCHLD does nothing, and may stay.
        for group in groups:
            os.write(group, b"0")  # Before there is anything to limit, and before its cgroup namespace.
        os.unshare(_NAMESPACES & ~os.CLONE_NEWPID)
        become_init(status)
    except BaseException as error:  # noqa: BLE001 - nothing may get past os._exit
        fds.write_all(status, json.dumps(describe(error)).encode() + b"\n")
    finally:
        os._exit(1)


def _failure(report: list[bytes]) -> NsharnessError:
    try:
        return NsharnessError(**json.loads(report[0]))
    except (ValueError, TypeError, IndexError):
        return NsharnessError("cannot build a sandbox", why="its first process ended before it was ready")
