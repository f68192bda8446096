"""The client connections of one listener: how many there may be, how long they may do nothing, their end."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable
from typing import Final, Protocol

from nsharness.linux import libc
from nsharness_proxy.claims import Entrance, Origin
from nsharness_proxy.fast.hosts import Hosts
from nsharness_proxy.judge import Judge
from nsharness_proxy.report import Report
from nsharness_proxy.sandbox import Sandbox

BACKLOG: Final = 4096
MAX_CONNECTIONS: Final = 1024
"""Connections of one listener at a time; those beyond are closed as they come."""
_TICK_SECONDS: Final = 1.0
_END_SECONDS: Final = 5.0

_REST_SECONDS: Final = 10.0


class _Leftovers:
    """What connections that have ended leave in memory: kept for a while, since the next ones may need it."""

    def __init__(self) -> None:
        self._given_back = float("-inf")

    def give_back(self, now: float) -> None:
        """Let the kernel have them, which takes about a millisecond, unless that was done just now."""
        if self._given_back + _REST_SECONDS < now:
            self._given_back = now
            libc.trim()


_leftovers: Final = _Leftovers()


class Connection(Protocol):
    """A client's connection, as its service knows it."""

    def expire(self, now: float) -> None:
        """End it if, by the loop's clock, it has been waited for too long."""

    def end(self) -> None: ...
    def end_outlived(self) -> None: ...


class HandOver(Protocol):
    """Lets mitmproxy go on with a connection, from these bytes on, as ``judge`` knows it; inside ``tls``, in
    whose handshake the client named ``sni``."""

    def __call__(
        self, transport: asyncio.Transport, data: bytes, judge: Judge, sni: str | None, *, tls: bool
    ) -> None: ...


class Service:
    """Accepts on a passed socket, which it owns."""

    def __init__(
        self,
        sandbox: Sandbox,
        entrance: Entrance,
        sock: socket.socket,
        hosts: Hosts,
        report: Report,
        hand_over: HandOver,
        serve: Callable[[Service], asyncio.Protocol],
    ) -> None:
        """``serve`` makes what serves a new connection."""
        self.sandbox = sandbox
        self.hosts = hosts
        self.report = report
        self.hand_over = hand_over
        self.serve = serve
        self._entrance: Entrance = entrance
        self._socket = sock
        self._served = False
        self._server: asyncio.Server | None = None
        self._ticking: asyncio.TimerHandle | None = None
        self._closed = False
        self._empty = asyncio.Event()
        self._empty.set()
        self._connections: set[Connection] = set()
        self.now = asyncio.get_running_loop().time()
        """A clock that goes in steps of a second, while anything is going on."""

    async def start(self) -> None:
        """Begin to accept."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._serve_one, sock=self._socket, backlog=BACKLOG)

    def _serve_one(self) -> asyncio.Protocol:
        if self._ticking is None:
            self.now = asyncio.get_running_loop().time()
        return self.serve(self)

    def judge(self, address: str) -> Judge:
        """Who decides on a connection to this address of the gateway."""
        return Judge(self.sandbox, Origin(self._entrance, address))

    def add(self, connection: Connection) -> bool:
        """Whether there is room for one more."""
        if self._closed or len(self._connections) >= MAX_CONNECTIONS:
            return False
        self._connections.add(connection)
        self._empty.clear()
        self._served = True
        if self._ticking is None:
            self._ticking = asyncio.get_running_loop().call_later(_TICK_SECONDS, self._tick)
        return True

    def remove(self, connection: Connection) -> None:
        """One less."""
        self._connections.discard(connection)
        if not self._connections:
            self._empty.set()

    def _tick(self) -> None:
        loop = asyncio.get_running_loop()
        self.now = loop.time()
        for connection in tuple(self._connections):
            connection.expire(self.now)
        self.hosts.expire(self.now)
        if self._served and not self._connections:
            self._served = False
            _leftovers.give_back(self.now)
        # Sandboxes that do nothing are many, and cost nothing.
        busy = self._connections or self.hosts.waiting
        self._ticking = loop.call_later(_TICK_SECONDS, self._tick) if busy else None

    def end_outlived(self) -> None:
        """End the tunnels that policy no longer allows: nothing in them is ever decided on again."""
        for connection in tuple(self._connections):
            connection.end_outlived()

    async def close(self) -> None:
        """Stop accepting, close the socket, end every connection and see them end. Idempotent."""
        self._closed = True
        if self._server is not None:
            self._server.close()
        if self._ticking is not None:
            self._ticking.cancel()
        self._socket.close()
        for connection in tuple(self._connections):
            connection.end()
        self.hosts.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_END_SECONDS):
                await self._empty.wait()
