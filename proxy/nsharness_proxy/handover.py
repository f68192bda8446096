"""Connections that another engine has begun and mitmproxy goes on with, each as if it were a new one."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final

from nsharness_proxy.judge import Judge
from nsharness_proxy.probe import see_denial, serve_mitm
from nsharness_proxy.report import Report

if TYPE_CHECKING:
    from nsharness_proxy.connection import Connection
    from nsharness_proxy.mitm import Mitm

MAX_CONNECTIONS: Final = 1024
"""Of one sandbox at a time; those beyond are closed."""
_END_SECONDS: Final = 5.0


class HandOver:
    """Those of one sandbox. To be called with each; nothing of it may have been decided on yet."""

    def __init__(self, load: Callable[[], Awaitable[Mitm]], report: Report) -> None:
        self._load = load
        self._report = report
        self._probed = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._connections: set[Connection] = set()
        self._closed = False

    def __call__(
        self, transport: asyncio.Transport, data: bytes, judge: Judge, sni: str | None, *, tls: bool
    ) -> None:
        """Go on with what comes over ``transport``, ``data`` first: inside ``tls`` that was opened already,
        in whose handshake the client named ``sni``."""
        if self._closed or len(self._tasks) >= MAX_CONNECTIONS:
            transport.abort()
            return
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(loop=loop)
        protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
        writer = asyncio.StreamWriter(transport, protocol, reader, loop)
        reader.feed_data(data)
        task = asyncio.ensure_future(self._serve(reader, writer, judge, sni, tls=tls))
        if not task.done():
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _serve(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        judge: Judge,
        sni: str | None,
        *,
        tls: bool,
    ) -> None:
        connection = None
        try:
            mitm = await self._load()
            if not self._probed:
                await see_denial(judge.sandbox, serve_mitm(mitm))
                self._probed = True
            connection = mitm.connection(reader, writer, judge)
            if tls:
                mitm.inside_tls(connection, sni)
            self._connections.add(connection)
            await connection.handle_client()
        except Exception as error:  # noqa: BLE001 - the connection ends, and somebody should know
            self._report.failure("a connection could not be handed over", error)
            writer.transport.abort()
        finally:
            if connection is not None:
                self._connections.discard(connection)
            writer.close()
            asyncio.get_running_loop().call_later(_END_SECONDS, writer.transport.abort)

    async def close(self) -> None:
        """End all of them, and see them end."""
        self._closed = True
        for connection in tuple(self._connections):
            connection.end()
        waiting = {task for task in self._tasks if not task.done()}
        if not self._connections:
            for task in waiting:
                task.cancel()
        if waiting:
            await asyncio.wait(waiting, timeout=_END_SECONDS)
