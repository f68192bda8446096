"""The supervisor's side of the zygote: gateways and sandboxes on request."""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Sequence

from nsharness.errors import ASK_DOCTOR, NsharnessError
from nsharness.frozen import frozen, replace
from nsharness.linux import fds
from nsharness.plan.handover import Beginning, packed, shared
from nsharness.plan.steps import Plan
from nsharness.supervisor.channel import Asked, Message, Reply
from nsharness.supervisor.early import Started
from nsharness.supervisor.hub import Hub

_START_SECONDS = 30.0
_TOLD = 8  # As many are remembered: one that waits for long may have an earlier one.
_WORTH = 10  # Fewer steps are not worth a message.


@frozen
class GatewayHandle:
    """A gateway that the zygote keeps, and its listening sockets, which are ours."""

    number: int
    listeners: tuple[int, ...]
    beginning: int = 0
    """What the zygote lets a plan for it begin with (``nsharness.plan.handover.Beginning``)."""


@frozen
class InitHandle:
    """A sandbox's PID 1: its pid on the host, and a descriptor that stays true when the pid is reused."""

    pid: int
    pidfd: int


class Beginnings:
    """What the plans of a session have begun with, and what the zygote was told of that."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._told: deque[Beginning] = deque([Beginning()], _TOLD)
        self._last: Plan | None = None

    def fitting(self, number: int, plan: Plan) -> Beginning:
        """The one with that number if the plan begins so, otherwise that of no step."""
        with self._lock:
            found = (each for each in self._told if each.number == number and each.fits(plan))
            return next(found, Beginning())

    def following(self, plan: Plan) -> Beginning | None:
        """After a sandbox has got this plan: with what the next is likely to begin, if that is new."""
        with self._lock:
            before, self._last = self._last, plan
            if before is None:
                return None
            steps = plan.steps[: shared(before, plan)]
            latest = self._told[-1]
            if len(steps) < _WORTH or (latest.steps, latest.uid, latest.gid) == (steps, plan.uid, plan.gid):
                return None
            self._told.append(Beginning(latest.number + 1, plan.uid, plan.gid, steps))
            return self._told[-1]


class Zygote:
    """Starts with the first use; ends, and all its sandboxes with it, when closed."""

    def __init__(self, hub: Hub, started: Started | None = None, *, pool: int = 0) -> None:
        """``pool`` as for ``pool``, from the start."""
        self._pool = pool
        started = started or Started("nsharness.sandbox.zygote", "")
        self._ready = threading.Event()
        self._failure: NsharnessError | None = None
        self._child = started.child
        self._channel = started.channel(hub, self._on_event, self._on_end)
        self._beginnings = Beginnings()

    @property
    def pid(self) -> int:
        """The zygote's pid."""
        return self._child.pid

    def _on_event(self, message: Message, descriptors: list[int]) -> None:
        fds.close_all(descriptors)
        match message.get("event"):
            case "ready":
                if self._pool:
                    self.pool(self._pool)
                self._ready.set()
            case "error":
                self._failure = NsharnessError(
                    str(message["what"]), why=str(message["why"]), hint=str(message["hint"])
                )
                self._ready.set()

    def _on_end(self) -> None:
        self._ready.set()

    def gateway(self, *, mtls: bool = False, ahead: bool = False) -> GatewayHandle:
        """Make a gateway, with the proxy's port 3129 where clients show a certificate, else 3128.

        With ``ahead`` a first process is made for it meanwhile, of use to a sandbox without control groups
        and without user namespaces of its own. ``NsharnessError`` when the kernel refuses.
        """
        return self.ask_gateway(mtls=mtls, ahead=ahead)()

    def ask_gateway(self, *, mtls: bool, ahead: bool) -> Callable[[], GatewayHandle]:
        """The same, but whoever asks may do something else before they call the result, which they must."""
        message = {"op": "gateway", "mtls": mtls, "ahead": ahead}
        # It may not be ready yet: then this waits in its socket.
        asked = self._explained(lambda: self._channel.ask(message))

        def made() -> GatewayHandle:
            reply, descriptors = self._answer_to(asked)
            return GatewayHandle(int(reply["gateway"]), tuple(descriptors), int(reply["beginning"]))

        return made

    def sandbox(
        self,
        gateway: GatewayHandle,
        plan: Plan,
        contents: bytes,
        control: int,
        groups: Sequence[int] = (),
    ) -> InitHandle:
        """Fork a sandbox that serves the socket ``control``; it is fully confined when this returns.

        ``plan`` and ``contents`` are what ``nsharness.plan.handover.split`` made of a plan.
        ``groups`` are descriptors of the control groups' ``cgroup.procs`` that it is to be in.
        """
        beginning = self._beginnings.fitting(gateway.beginning, plan)
        rest = replace(plan, steps=plan.steps[len(beginning.steps) :])
        content = fds.memfd("plan", packed(rest, contents))
        try:
            message = {
                "op": "sandbox",
                "gateway": gateway.number,
                "user_namespaces": plan.user_namespaces,
                "beginning": beginning.number,
            }
            reply, descriptors = self._request(message, (content, control, *groups))
        finally:
            fds.close_all([content])
        if (following := self._beginnings.following(plan)) is not None:
            self._tell_beginning(following)
        return InitHandle(int(reply["pid"]), descriptors[0])

    def _tell_beginning(self, beginning: Beginning) -> None:
        content = fds.memfd("beginning", beginning.to_json().encode())
        try:
            self._channel.send({"op": "beginning"}, (content,))
        except OSError:
            return  # As in ``release``.
        finally:
            fds.close_all([content])

    def pool(self, size: int) -> None:
        """Keep so many gateways ready, each with a first process that waits in its namespaces: a sandbox
        without control groups of its own then starts in less than half the time."""
        with contextlib.suppress(OSError):  # It is gone, which the next request will tell.
            self._channel.send({"op": "pool", "size": size})

    def release(self, gateway: GatewayHandle) -> None:
        """Let the zygote forget a gateway."""
        try:
            self._channel.send({"op": "release", "gateway": gateway.number})
        except OSError:
            return  # The zygote is gone, and with it what it kept.

    def _request(self, message: Message, descriptors: tuple[int, ...]) -> Reply:
        return self._answer_to(self._explained(lambda: self._channel.ask(message, descriptors)))

    def _answer_to(self, asked: Asked) -> Reply:
        if not self._ready.wait(_START_SECONDS):
            raise NsharnessError("the zygote did not start", why=f"no sign of it for {_START_SECONDS:.0f} s")
        return self._explained(asked.reply)

    def _explained[T](self, action: Callable[[], T]) -> T:
        """Do it, and say why where that is known."""
        try:
            if self._failure is not None:
                raise self._failure
            return action()
        except NsharnessError as error:
            if error.hint == ASK_DOCTOR:  # The kernel refused something: find out what helps on this machine.
                from nsharness.linux.probe import remedy_here

                raise NsharnessError(error.what, why=error.why, hint=remedy_here()) from None
            raise
        except EOFError:
            if self._failure is not None:
                return self._explained(action)
            self._child.end(1.0)
            raise NsharnessError("the zygote ended unexpectedly", why=self._child.complaint()) from None

    def dismiss(self) -> None:
        """Nothing more is asked for: it ends, which is not waited for. Idempotent."""
        self._channel.close()

    def close(self) -> None:
        """End it. Idempotent."""
        self._channel.close()
        self._child.end()
