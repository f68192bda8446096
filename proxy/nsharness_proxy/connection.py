"""One client connection in the event loop: the engine's handler, with our guard at every hook.

The engine's own way of calling addons goes on with a request when an addon fails. Here a hook that
nobody answers, or that fails, ends the connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import select
import time
from collections.abc import Iterator
from types import TracebackType
from typing import Final, Literal, cast

import mitmproxy.connection
from mitmproxy import options
from mitmproxy.connection import Connection as EngineConnection
from mitmproxy.connection import ConnectionState, Server
from mitmproxy.proxy import commands, events, mode_specs, server, server_hooks
from mitmproxy.proxy.layer import Layer
from mitmproxy.proxy.layers.http._hooks import HttpRequestHeadersHook

from nsharness_proxy import patience, upstream
from nsharness_proxy.answering import Answer, Answered
from nsharness_proxy.codec import PROTOCOL
from nsharness_proxy.guard import Guard
from nsharness_proxy.judge import Judge
from nsharness_proxy.layers import MAX_PENDING, GoneHook
from nsharness_proxy.report import Report
from nsharness_proxy.streams import MAX_HELD, AbandonHook, RoomHook
from nsharness_proxy.tunnel import EndOfStreamHook
from nsharness_proxy.upstream import UpstreamError

# Steps at which there is nothing to decide. Every other one must have a method of the guard.
_UNGUARDED: Final = frozenset(
    {
        "client_disconnected",
        "http_connected",
        "http_connect_error",
        "request",
        "tls_clienthello",
        "tls_established_client",
        "tls_failed_server",
        "websocket_start",
        "websocket_end",
    }
)

_LOOK_SECONDS: Final = 1.0

_ExceptionInfo = Literal[True] | tuple[type[BaseException], BaseException, TracebackType | None] | None


class Connection(server.LiveConnectionHandler):
    """Serves one client until either side is done."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        settings: options.Options,
        mode: mode_specs.ProxyMode,
        guard: Guard,
        report: Report,
    ) -> None:
        super().__init__(reader, writer, settings, mode)
        self._writer = writer
        self._guard = guard
        self._report = report
        self._progress = asyncio.Event()
        # It is no layer, and not in the list of them, whose order has a meaning.
        self.layer = cast(Layer, Answered(guard.top_layer(self.layer.context), self._answer))
        self._patience = asyncio.get_running_loop().call_later(patience.HEAD_SECONDS, self._look)

    async def handle_client(self) -> None:
        """Serve the client until the connection is over."""
        try:
            await super().handle_client()
        finally:
            self._patience.cancel()

    def _look(self) -> None:
        """End a connection whose client lets us wait for a request; look again when it may be time."""
        since, now = self._guard.owes_since, time.monotonic()
        most = patience.HEAD_SECONDS
        left = most if since is None else since + most - now
        if left <= 0:
            self._guard.too_slow()
            self.abort()
            return
        self._patience = asyncio.get_running_loop().call_later(left, self._look)

    @property
    def judge(self) -> Judge:
        """Who decides on it."""
        return self._guard

    def abort(self) -> None:
        """End the connection at once, whatever it was doing."""
        self._writer.transport.abort()

    def end(self) -> None:
        """The same, also for a tunnel, which could still pass on what its host sends."""
        self.abort()
        transport = self.transports.get(self.client)
        if transport is not None and transport.handler is not None:
            transport.handler.cancel("the listener is closed")

    def end_outlived(self) -> None:
        """End a tunnel that policy no longer allows."""
        if self._guard.passes_through and self._guard.outlived():
            self.end()

    def close_connection(self, connection: EngineConnection, half_close: bool = False) -> None:
        """Close a connection, or our half of it. TLS at the door has no halves: it closes whole."""
        writer = self.transports[connection].writer if connection in self.transports else None
        if half_close and isinstance(writer, asyncio.StreamWriter) and not writer.can_write_eof():
            half_close = False
        super().close_connection(connection, half_close)

    def _answer(self, hook: commands.StartHook) -> Answer:
        """Answer a hook that the layers came to, if it needs no waiting."""
        if isinstance(hook, RoomHook) or (isinstance(hook, HttpRequestHeadersHook) and self._guard.asks):
            return Answer.LATER
        try:
            self._decide(hook)
        except Exception as error:  # noqa: BLE001 - whatever it is, the request must not go on
            self._fail(hook, error)
            return Answer.REFUSED
        return Answer.GIVEN

    async def handle_hook(self, hook: commands.StartHook) -> None:
        if isinstance(hook, RoomHook):
            await self._drain(hook.connection)
            return
        try:
            if isinstance(hook, HttpRequestHeadersHook) and self._guard.asks:
                with self.timeout_watchdog.disarm(), self._watching():
                    await self._guard.ask(hook.flow)
            self._decide(hook)
        except Exception as error:  # noqa: BLE001 - as above
            self._fail(hook, error)
            if isinstance(hook, server_hooks.ClientConnectedHook):
                self.client.error = "refused"
                return
            # The task that the hook runs in ends here: nobody gets to know that the hook is done, and the
            # request stays where it is.
            raise asyncio.CancelledError from None

    def _decide(self, hook: commands.StartHook) -> None:
        if hook.name in _UNGUARDED:
            return
        if isinstance(hook, AbandonHook):
            self._abandon(hook.connection)
        elif isinstance(hook, EndOfStreamHook):
            self.close_connection(hook.connection, half_close=True)
        elif isinstance(hook, GoneHook):
            self._guard.leave(hook.flow)
        else:
            answer = getattr(self._guard, hook.name)
            answer(*hook.args())

    def _fail(self, hook: commands.StartHook, error: Exception) -> None:
        self._report.failure(f"the guard failed at {hook.name}", error)
        self.abort()

    @contextlib.contextmanager
    def _watching(self) -> Iterator[None]:
        """Within the block the client's end is noticed also when nothing is read from it, because what it
        sent waits already."""
        loop, sock = asyncio.get_running_loop(), self._writer.get_extra_info("socket")
        poll = select.poll()
        poll.register(sock.fileno(), select.POLLRDHUP)
        timers: list[asyncio.TimerHandle] = []

        def look() -> None:
            if poll.poll(0):
                self._guard.leave()
            else:
                timers[:] = [loop.call_later(_LOOK_SECONDS, look)]

        timers.append(loop.call_later(_LOOK_SECONDS, look))
        try:
            yield
        finally:
            timers[0].cancel()

    async def open_connection(self, command: commands.OpenConnection) -> None:
        """Connect to a host that a request was allowed to."""
        host = command.connection
        assert isinstance(host, Server)
        try:
            reader, writer = await self._connect(host)
        except UpstreamError as error:
            host.error = error.reason
            await self.server_event(events.OpenConnectionCompleted(command, error.reason))
            return
        except asyncio.CancelledError:
            await self.server_event(events.OpenConnectionCompleted(command, "upstream-unreachable"))
            raise
        host.timestamp_start = host.timestamp_tcp_setup = time.time()
        host.state = ConnectionState.OPEN
        host.peername = writer.get_extra_info("peername")[:2]
        host.sockname = writer.get_extra_info("sockname")[:2]
        self.transports[host] = server.ConnectionIO(asyncio.current_task(), reader, writer)
        await self.server_event(events.OpenConnectionCompleted(command, None))
        patience = asyncio.get_running_loop().call_later(
            upstream.CONNECT_SECONDS, self._end_handshake, host, writer
        )
        try:
            await self.handle_connection(host)
        finally:
            patience.cancel()
            writer.close()

    async def _connect(self, host: Server) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        try:
            if host.address is None or host.address not in self._guard.approved:
                raise UpstreamError("upstream-address-refused")
            return await upstream.connect(self._guard.sandbox.policy, *host.address)
        except (UpstreamError, asyncio.CancelledError):
            raise
        except Exception as error:  # noqa: BLE001 - a client must not wait for what will never come
            self._report.failure("connecting failed", error)
            raise UpstreamError("upstream-failed") from None

    def _end_handshake(self, host: Server, writer: asyncio.StreamWriter) -> None:
        """A host that takes connections and never answers is given up."""
        if host.tls and not host.tls_established:
            writer.transport.abort()

    async def server_event(self, event: events.Event) -> None:
        if isinstance(event, events.ConnectionClosed):
            if event.connection is self.client:
                self._guard.leave()
            # A connection that was reset is no half of one: nothing can be sent on it either.
            transport = self.transports.get(event.connection)
            if transport is not None and transport.writer is not None and transport.writer.is_closing():
                event.connection.state = ConnectionState.CLOSED
        await super().server_event(event)
        self._progress.set()

    async def drain_writers(self) -> None:
        """Wait until what was read has gone on; for the client also until little of it waits for a host."""
        if self._guard.passes_through:
            await self._drain_others()
        elif self.client.alpn == PROTOCOL:
            await self._drain_streams()
            return
        elif any(map(_waits, self.transports.values())):
            await super().drain_writers()  # type: ignore[no-untyped-call]
        transport = self.transports.get(self.client)
        if transport is None or transport.handler is not asyncio.current_task():
            return
        while self._guard.pending > MAX_PENDING:
            self._progress.clear()
            await self._progress.wait()

    async def _drain_streams(self) -> None:
        """Wait for the client, which reads for all of its streams; for a host's connection also until its own
        stream has room. Never for another host."""
        await self._drain(self.client)
        own = next((c for c, t in self.transports.items() if t.handler is asyncio.current_task()), None)
        while own is not None and own is not self.client and self._guard.held(own) > MAX_HELD:
            self._progress.clear()
            await self._progress.wait()

    async def _drain(self, connection: mitmproxy.connection.Connection) -> None:
        transport = self.transports.get(connection)
        if transport is not None and transport.writer is not None:
            with contextlib.suppress(OSError):
                await transport.writer.drain()

    def _abandon(self, connection: mitmproxy.connection.Connection) -> None:
        transport = self.transports.get(connection)
        if transport is not None and isinstance(transport.writer, asyncio.StreamWriter):
            transport.writer.transport.abort()
        elif transport is not None and transport.handler is not None:
            transport.handler.cancel("nobody waits for it")

    async def _drain_others(self) -> None:
        """Wait for whom the task at hand reads for, and not for the one that it reads from: in a tunnel each
        direction goes on without the other."""
        for transport in list(self.transports.values()):
            if transport.writer is not None and transport.handler is not asyncio.current_task():
                try:
                    await transport.writer.drain()
                except OSError as error:
                    if transport.handler is not None:
                        transport.handler.cancel(f"cannot be written to: {type(error).__name__}")

    def log(self, message: str, level: int = logging.INFO, exc_info: _ExceptionInfo = None) -> None:
        """The engine's messages quote what clients send: they are dropped. Where one tells of a crash, the
        connection ends, which would hang otherwise."""
        if exc_info:
            error = exc_info[1] if isinstance(exc_info, tuple) else None
            self._report.failure("a connection failed", error)
            self.abort()


def _waits(transport: server.ConnectionIO) -> bool:
    """Whether something is still to be written."""
    writer = transport.writer
    if not isinstance(writer, asyncio.StreamWriter):
        return writer is not None
    return writer.is_closing() or writer.transport.get_write_buffer_size() > 0
