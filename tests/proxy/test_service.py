"""What a listener of the fast engine does while nobody is connected: nothing."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from nsharness.linux import libc
from nsharness_proxy.fast import service
from nsharness_proxy.fast.front import IDLE_SECONDS
from nsharness_proxy.fast.service import Service
from nsharness_proxy.report import Report


class Hosts:
    """Connections to hosts, of which some wait."""

    waiting = 0

    def expire(self, now: float) -> None:
        pass

    def close(self) -> None:
        pass


class Client(asyncio.Protocol):
    """A client, with a deadline as it would have one."""

    def __init__(self, service: Service, arrived: asyncio.Queue[Client]) -> None:
        self.service = service
        self.arrived = arrived
        self.deadline = service.now + IDLE_SECONDS
        self.ended = False

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        assert self.service.add(self)
        self.arrived.put_nowait(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.service.remove(self)

    def expire(self, now: float) -> None:
        self.ended = self.ended or self.deadline < now

    def end(self) -> None:
        self.transport.abort()

    def end_outlived(self) -> None:
        pass


@dataclass
class Served:
    """A service, and who has arrived."""

    service: Service
    arrived: asyncio.Queue[Client]
    address: tuple[str, int]

    async def connect(self) -> tuple[asyncio.StreamWriter, Client]:
        _, writer = await asyncio.open_connection(*self.address)
        return writer, await self.arrived.get()

    async def leave(self, writer: asyncio.StreamWriter) -> None:
        writer.close()
        await self.service._empty.wait()

    def ticks(self) -> bool:
        return self.service._ticking is not None


@asynccontextmanager
async def serving(hosts: Hosts) -> AsyncIterator[Served]:
    arrived: asyncio.Queue[Client] = asyncio.Queue()
    sock = socket.create_server(("127.0.0.1", 0))
    some: Any = hosts
    made = Service(some, "explicit", sock, some, Report(print), some, lambda made: Client(made, arrived))
    await made.start()
    try:
        yield Served(made, arrived, sock.getsockname())
    finally:
        await made.close()


@pytest.mark.asyncio
async def test_the_clock_runs_while_somebody_is_connected_and_no_longer() -> None:
    hosts = Hosts()
    async with serving(hosts) as served:
        assert not served.ticks()
        writer, _ = await served.connect()
        assert served.ticks()
        served.service._tick()
        assert served.ticks()
        await served.leave(writer)
        hosts.waiting = 1
        served.service._tick()
        # What waits for hosts has to be closed some time.
        assert served.ticks()
        hosts.waiting = 0
        served.service._tick()
        assert not served.ticks()


@pytest.mark.asyncio
async def test_who_comes_after_a_long_rest_has_all_of_the_time() -> None:
    async with serving(Hosts()) as served:
        served.service.now -= 2 * IDLE_SECONDS
        writer, client = await served.connect()
        served.service._tick()
        assert not client.ended
        await served.leave(writer)


@pytest.mark.asyncio
async def test_memory_is_given_back_when_the_last_has_gone_and_not_all_the_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given: list[bool] = []
    monkeypatch.setattr(libc, "trim", lambda: given.append(True))
    monkeypatch.setattr(service, "_leftovers", service._Leftovers())
    async with serving(Hosts()) as served:
        for _ in range(3):
            writer, _ = await served.connect()
            served.service._tick()
            assert len(given) <= 1
            await served.leave(writer)
            served.service._tick()
    assert given == [True]
