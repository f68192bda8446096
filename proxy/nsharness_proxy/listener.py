"""A listening socket of a sandbox's gateway: whoever arrives here is that sandbox."""

from __future__ import annotations

import asyncio
import socket
import ssl
from typing import Any, Final

import mitmproxy_rs
from mitmproxy import options
from mitmproxy.proxy import mode_servers, mode_specs
from mitmproxy.proxy.context import Context
from mitmproxy.proxy.layer import Layer

from nsharness_proxy.claims import Entrance, Origin
from nsharness_proxy.connection import Connection
from nsharness_proxy.entry import holder
from nsharness_proxy.guard import Guard
from nsharness_proxy.report import Report
from nsharness_proxy.sandbox import Sandbox

_BACKLOG: Final = 4096
MAX_CONNECTIONS: Final = 1024
"""Connections of one listener at a time; those beyond are closed as they come."""
HANDSHAKE_SECONDS: Final = 10.0
"""How long a client may take to show its certificate."""
END_SECONDS: Final = 5.0


class SandboxMode(mode_specs.ProxyMode):  # type: ignore[no-untyped-call]
    """How the engine names such a listener. It binds to nothing: the socket was made elsewhere."""

    description = "a sandbox's listener"
    transport_protocol = mode_specs.TCP
    default_port = None

    def __post_init__(self) -> None:
        """Nothing to check: no such specification is ever parsed."""

    def listen_port(self, default: int | None = None) -> None:
        """None, because several listeners at one port would be taken for a conflict."""
        return


class Listener(mode_servers.AsyncioServerInstance[SandboxMode]):  # type: ignore[no-untyped-call]
    """Accepts on a passed socket, which it owns."""

    def __init__(
        self,
        sandbox: Sandbox,
        entrance: Entrance,
        sock: socket.socket,
        settings: options.Options,
        report: Report,
        *,
        entry: ssl.SSLContext | None = None,
    ) -> None:
        """``entry`` is the TLS in which clients show the sandbox's certificate before anything else."""
        specification = f"sandbox:{sandbox.id}:{entrance}"
        super().__init__(SandboxMode(specification, sandbox.id, None, None), _Unmanaged())
        self._sandbox = sandbox
        self._entrance: Entrance = entrance
        self._socket = sock
        self._settings = settings
        self._report = report
        self._entry = entry
        self._closed = False
        self._entering: set[asyncio.Task[Any]] = set()
        self._connections: dict[asyncio.Task[Any], Connection] = {}

    async def close(self) -> None:
        """Stop accepting, close the socket, end every connection and see them end. Idempotent."""
        self._closed = True
        for server in self._servers:
            server.close()
        self._servers = []
        self._socket.close()
        for connection in self._connections.values():
            connection.end()
        for task in self._entering:
            task.cancel()
        if tasks := {*self._connections, *self._entering}:
            await asyncio.wait(tasks, timeout=END_SECONDS)

    def end_outlived(self) -> None:
        """End the tunnels that policy no longer allows: nothing in them is ever decided on again."""
        for connection in tuple(self._connections.values()):
            connection.end_outlived()

    async def _start(self) -> None:
        self._servers = await self.listen("", 0)

    async def listen(self, host: str, port: int) -> list[Any]:
        """Serve the socket; there is nothing to bind."""
        return [await asyncio.start_server(self.handle_stream, sock=self._socket, backlog=_BACKLOG)]

    def make_top_layer(self, context: Context) -> Layer:
        """Never called: each connection has a guard, and the guard knows."""
        raise NotImplementedError

    async def handle_stream(
        self,
        reader: asyncio.StreamReader | mitmproxy_rs.Stream,
        writer: asyncio.StreamWriter | mitmproxy_rs.Stream | None = None,
    ) -> None:
        """Serve one client."""
        assert isinstance(reader, asyncio.StreamReader)
        assert isinstance(writer, asyncio.StreamWriter)
        # One may have been accepted just before the socket was closed.
        full = len(self._connections) + len(self._entering) >= MAX_CONNECTIONS
        if full or self._closed:
            writer.transport.abort()
            return
        if self._entry is not None and not await self._enter(writer, self._entry):
            return
        sock = writer.get_extra_info("socket")
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        guard = Guard(self._sandbox, Origin(self._entrance, writer.get_extra_info("sockname")[0]))
        connection = Connection(reader, writer, self._settings, self.mode, guard, self._report)
        task = asyncio.current_task()
        assert task is not None
        self._connections[task] = connection
        try:
            await connection.handle_client()
        finally:
            del self._connections[task]
            # The engine leaves it open when it is told to close it while an event waits for its turn.
            writer.close()
            # And what a client does not read would be kept for as long as it likes.
            asyncio.get_running_loop().call_later(END_SECONDS, writer.transport.abort)

    async def _enter(self, writer: asyncio.StreamWriter, entry: ssl.SSLContext) -> bool:
        """Whether the client has shown this sandbox's certificate. It counts as a connection meanwhile."""
        task = asyncio.current_task()
        assert task is not None
        self._entering.add(task)
        try:
            await writer.start_tls(entry, ssl_handshake_timeout=HANDSHAKE_SECONDS)
            shown = holder(writer.get_extra_info("ssl_object")) == self._sandbox.id
        except OSError:
            shown = False
        except asyncio.CancelledError:
            # The listener is closed, and waits for this to end.
            writer.transport.abort()
            return False
        finally:
            self._entering.discard(task)
        if not shown:
            self._sandbox.record("deny", "forward", reason="client-certificate-refused")
            writer.transport.abort()
        return shown


class _Unmanaged:
    """Stands where the engine keeps all connections by number; each listener keeps its own."""

    def __init__(self) -> None:
        self.connections: dict[tuple[Any, ...] | str, Any] = {}

    def register_connection(self, connection_id: tuple[Any, ...] | str, handler: Any) -> Any:
        raise NotImplementedError
