"""A sandbox's limits while it lives: its control groups, its wall time, and which of them ended it."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Mapping
from typing import Any, Final

from nsharness.errors import NsharnessError
from nsharness.frozen import frozen
from nsharness.linux import cgroups, fds
from nsharness.plan.limits import Group, Limit, LimitFacts, LimitPlan, Limits, choose
from nsharness.supervisor.hub import Action, Hub

_KILLED: Final = 128 + signal.SIGKILL
_TIMED_OUT: Final = 124


@frozen
class Hit:
    """A limit that was reached; ``ended`` when the sandbox was ended for it, ``count`` how often it was."""

    name: str
    text: str
    ended: bool
    count: int = 1

    def describe(self) -> str:
        """What happened, for a person."""
        match self.name:
            case "memory":
                what = f"out of memory: more than limits.memory = {self.text}"
            case "wall":
                what = f"its time is over: limits.wall = {self.text}"
            case _:
                what = f"limits.{self.name} = {self.text} was reached {self.count} times"
        return what

    def to_record(self) -> dict[str, Any]:
        """As ``result.json`` has it."""
        return {"limit": self.name, "value": self.text, "ended": self.ended, "count": self.count}

    def error(self) -> NsharnessError:
        """For whoever wants something of the sandbox afterwards."""
        code = _TIMED_OUT if self.name == "wall" else _KILLED
        hint = "raise the limit in the profile, or ask for less"
        return NsharnessError("the sandbox was ended", why=self.describe(), hint=hint, exit_code=code)


def facts() -> LimitFacts:
    """What this host offers to us, now."""
    found = cgroups.available()
    return LimitFacts(
        found.unified, found.unified_controllers, found.legacy, cgroups.nproc_counts_namespaces()
    )


def plan_limits(settings: Mapping[str, Any], here: LimitFacts | None = None) -> LimitPlan:
    """The limits of a profile as they will be enforced; ``NsharnessError`` for one that cannot be."""
    wanted = Limits(**settings)
    if here is None:
        # The host's groups are looked for where one could be asked for, and otherwise not.
        exact = cgroups.nproc_counts_namespaces() and wanted.groupless
        here = LimitFacts() if exact else facts()
    return choose(wanted, here)


class Enforcer:
    """Holds one sandbox to its limits. Make it, hand ``descriptors`` on, ``watch`` the result, ``close``.

    ``on_hit`` is called once, in any thread, for the limit that ends the sandbox.
    """

    def __init__(self, plan: LimitPlan, sandbox: str, on_hit: Callable[[Hit], None]) -> None:
        self._plan = plan
        self._on_hit = on_hit
        self._lock = threading.Lock()
        self._fatal: Hit | None = None
        self._over = False
        self._made: list[Group] = []
        self._timer: threading.Timer | None = None
        self._events = -1
        self._hub: Hub | None = None
        self._final: tuple[Hit, ...] | None = None
        self.made: tuple[str, ...] = ()
        """The folders of the groups."""
        self.missing: list[str] = []
        """Limits that nobody insisted on, and that the kernel then refused."""
        self.descriptors: list[int] = []
        """Of each group's ``cgroup.procs``: the sandbox's first process writes itself there."""
        try:
            # A run may have several sandboxes, which all have its id.
            for group in plan.groups(f"{sandbox}.{os.urandom(3).hex()}"):
                self._make(group)
        except BaseException:
            self.close()
            raise

    def _make(self, group: Group) -> None:
        try:
            descriptor = cgroups.make(group.path, group.version, group.controllers, group.settings)
        except OSError as error:
            if not group.needed:
                self.missing += group.controllers
                return
            raise NsharnessError(
                f"cannot make the control group {group.path}",
                why=f"{error.strerror} ({error.filename})",
                hint=f"leave out {' and '.join(group.controllers)} in limits",
            ) from error
        self._made.append(group)
        self.made = (*self.made, group.path)
        self.descriptors.append(descriptor)

    def watch(self, hub: Hub, pidfd: int) -> None:
        """From now on the sandbox's time runs, and it is ended when its memory is used up."""
        fds.close_all(self.descriptors)
        self.descriptors.clear()
        group = self._group_of("memory")
        if group is not None and group.version == 1:
            self._events = cgroups.watch_memory(group.path)
            self._hub = hub
            hub.add(self._events, lambda: self._out_of_memory(pidfd))
        wall = self._plan.of("wall")
        if wall is not None:
            self._timer = threading.Timer(wall.value, self._end, (wall, pidfd))
            self._timer.daemon = True
            self._timer.start()

    def _group_of(self, name: str) -> Group | None:
        return next((group for group in self._made if name in group.controllers), None)

    def _out_of_memory(self, pidfd: int) -> list[Action]:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._events)
            limit = self._plan.of("memory")
            if limit is not None:
                self._end(limit, pidfd)
        return []

    def _end(self, limit: Limit, pidfd: int) -> None:
        with self._lock:
            # The descriptor is open as long as the sandbox is not over.
            if self._over:
                return
            self._note(limit)
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)

    def _note(self, limit: Limit) -> None:
        """Under the lock: the first limit that was hit is the one that counts."""
        if self._fatal is None:
            self._fatal = Hit(limit.name, limit.text, ended=True)
            self._on_hit(self._fatal)

    def cause(self) -> Hit | None:
        """The limit because of which the sandbox has ended, or is about to."""
        with self._lock:
            group, limit = self._group_of("memory"), self._plan.of("memory")
            if self._fatal is None and group is not None and limit is not None:
                # The kernel may have been faster than the word of it; version 2 says nothing at all.
                file = "memory.events" if group.version == 2 else "memory.oom_control"
                if cgroups.count(group.path, file, "oom_kill"):
                    self._note(limit)
            return self._fatal

    def hits(self) -> tuple[Hit, ...]:
        """The limits that have been reached so far, as far as anybody counts; after ``close`` too."""
        if self._final is not None:
            return self._final
        found = [self._fatal] if self._fatal is not None else []
        group, limit = self._group_of("pids"), self._plan.of("pids")
        if group is not None and limit is not None:
            refused = cgroups.count(group.path, "pids.events", "max")
            found += [Hit("pids", limit.text, ended=False, count=refused)] if refused else []
        return tuple(found)

    def settle(self) -> None:
        """The sandbox is over: no signal is sent any more. Idempotent."""
        with self._lock:
            self._over = True
        if self._timer is not None:
            self._timer.cancel()
        if self._events >= 0:
            if self._hub is not None:
                with contextlib.suppress(RuntimeError):
                    self._hub.remove(self._events)
            os.close(self._events)
            self._events = -1

    def close(self) -> None:
        """Remove the groups, in which nothing is alive by now. Idempotent."""
        self.settle()
        fds.close_all(self.descriptors)
        self.descriptors.clear()
        self._final = self.hits()
        while self._made:
            cgroups.remove(self._made.pop().path)
