"""Helper processes that are started before anybody knows what for: while they import, we read the profile.

They wait for their first message, and end when nobody sends one: leaving the block closes their sockets,
unless a session has taken them.
"""

from __future__ import annotations

import socket
from contextlib import suppress
from typing import TYPE_CHECKING

from nsharness.errors import NsharnessError
from nsharness.linux import fds
from nsharness.supervisor.child import Child
from nsharness.supervisor.token import new_token

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from nsharness.supervisor.channel import Channel, Message
    from nsharness.supervisor.hub import Hub
    from nsharness.supervisor.resolving import Resolver


class Started:
    """A helper process and our end of its socket, for whoever takes them."""

    def __init__(self, module: str, token: str, credentials: int | None = None) -> None:
        """``token`` is the end of the id of its run. ``NsharnessError`` when it cannot be started."""
        ours, theirs = fds.message_pair()
        numbers = {"--control-fd": theirs.fileno()}
        if credentials is not None:
            numbers["--credentials-fd"] = credentials
        arguments = [str(word) for pair in numbers.items() for word in pair]
        with theirs:
            try:
                self.child = Child(module, arguments, list(numbers.values()), run=token)
            except BaseException:
                ours.close()
                raise
        self.socket: socket.socket = ours

    def channel(
        self, hub: Hub, on_event: Callable[[Message, list[int]], None], on_end: Callable[[], None]
    ) -> Channel:
        """What it is talked to over from now on, which has the socket."""
        from nsharness.supervisor.channel import Channel

        try:
            return Channel(hub, self.socket, on_event, on_end)
        except BaseException:
            self.socket.close()
            raise

    def close(self) -> None:
        """Nobody needs it, and it has done nothing yet that it would have to finish."""
        self.socket.close()
        self.child.end(0.0)


class Early:
    """A context manager: a zygote for the run that is about to begin, and a proxy with an empty credential
    map where somebody asks for them."""

    def __init__(self) -> None:
        self.token = new_token()
        self._started: dict[str, Started] = {}
        self._map: int | None = None
        self._prepared = False
        self._resolver: Resolver | None = None

    def __enter__(self) -> Early:
        # Whatever forbids it is said by whoever finds nothing here and starts them again.
        with suppress(OSError, NsharnessError):
            self._started["zygote"] = Started("nsharness.sandbox.zygote", self.token)
        return self

    def start_proxy(self) -> None:
        """Start the proxy: for a run whose sandbox will need to know its certificate. Idempotent."""
        if self._map is not None or "zygote" not in self._started:
            return
        with suppress(OSError, NsharnessError):
            self._map = fds.memfd("credentials")
            self._started["proxy"] = Started("nsharness_proxy", self.token, self._map)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        left, self._started = self._started, {}
        for started in left.values():
            started.close()
        if (resolver := self.take_resolver()) is not None:
            resolver.close()
        if (descriptor := self.take_map()) is not None:
            fds.close_all([descriptor])

    def prepare(self) -> None:
        """Start the proxy, and let the zygote make a gateway: for whoever has something else to do first.
        Idempotent."""
        self.start_proxy()
        if not self._prepared:
            self._prepared = True
            self._tell("zygote", {"op": "prepare"})

    def warm(self) -> None:
        """The same, let the proxy import what it will need once it serves, and start a resolver: for whoever
        has the time."""
        from nsharness.supervisor.resolving import Resolver

        self.prepare()
        self._tell("proxy", {"op": "import"})
        if self._map is not None:
            with suppress(OSError, NsharnessError):
                self._resolver = Resolver(self._map)

    def _tell(self, name: str, message: dict[str, str]) -> None:
        if (started := self._started.get(name)) is not None:
            with suppress(OSError):
                fds.send(started.socket, message)

    def take(self, name: str) -> Started | None:
        """The helper, which is the caller's from now on; None when there is none, or no more."""
        started = self._started.pop(name, None)
        if started is not None and started.child.poll() is not None:
            started.close()
            return None
        return started

    def take_resolver(self) -> Resolver | None:
        """A resolver that waits, for the memory that ``take_map`` gives; the caller's from now on."""
        resolver, self._resolver = self._resolver, None
        if resolver is not None and not resolver.alive:
            resolver.close()
            return None
        return resolver

    def dismiss_resolver(self) -> None:
        """There is nothing to resolve."""
        if self._resolver is not None:
            self._resolver.dismiss()

    def take_map(self) -> int | None:
        """The memory that the proxy was given for its credential map: to be filled, sealed and closed."""
        descriptor, self._map = self._map, None
        return descriptor
