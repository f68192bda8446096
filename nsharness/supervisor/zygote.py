"""The supervisor's side of the zygote: gateways and sandboxes on request."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Sequence
from dataclasses import dataclass

from nsharness.errors import ASK_DOCTOR, NsharnessError
from nsharness.linux import fds
from nsharness.linux.probe import remedy_here
from nsharness.plan.handover import packed
from nsharness.plan.steps import Plan
from nsharness.supervisor.channel import Channel, Message
from nsharness.supervisor.early import Started
from nsharness.supervisor.hub import Hub

_START_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class GatewayHandle:
    """A gateway that the zygote keeps, and its listening sockets, which are ours."""

    number: int
    listeners: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class InitHandle:
    """A sandbox's PID 1: its pid on the host, and a descriptor that stays true when the pid is reused."""

    pid: int
    pidfd: int


class Zygote:
    """Starts with the first use; ends, and all its sandboxes with it, when closed."""

    def __init__(self, hub: Hub, started: Started | None = None, *, pool: int = 0) -> None:
        """``pool`` as for ``pool``, from the start."""
        self._pool = pool
        started = started or Started("nsharness.sandbox.zygote", "")
        self._ready = threading.Event()
        self._failure: NsharnessError | None = None
        self._child = started.child
        self._channel = Channel(hub, started.socket, self._on_event, self._on_end)

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
        reply, descriptors = self._request({"op": "gateway", "mtls": mtls, "ahead": ahead}, ())
        return GatewayHandle(int(reply["gateway"]), tuple(descriptors))

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
        content = fds.memfd("plan", packed(plan, contents))
        try:
            message = {
                "op": "sandbox",
                "gateway": gateway.number,
                "user_namespaces": plan.user_namespaces,
            }
            reply, descriptors = self._request(message, (content, control, *groups))
        finally:
            fds.close_all([content])
        return InitHandle(int(reply["pid"]), descriptors[0])

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

    def _request(self, message: Message, descriptors: tuple[int, ...]) -> tuple[Message, list[int]]:
        if not self._ready.wait(_START_SECONDS):
            raise NsharnessError("the zygote did not start", why=f"no sign of it for {_START_SECONDS:.0f} s")
        try:
            if self._failure is not None:
                raise self._failure
            return self._channel.request(message, descriptors)
        except NsharnessError as error:
            if error.hint == ASK_DOCTOR:  # The kernel refused something: find out what helps on this machine.
                raise NsharnessError(error.what, why=error.why, hint=remedy_here()) from None
            raise
        except EOFError:
            self._child.end(1.0)
            raise NsharnessError("the zygote ended unexpectedly", why=self._child.complaint()) from None

    def close(self) -> None:
        """End it. Idempotent."""
        self._channel.close()
        self._child.end()
