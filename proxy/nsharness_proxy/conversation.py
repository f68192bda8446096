"""All requests of one client connection, and the connections to hosts that they need."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy

from mitmproxy.connection import Connection, ConnectionState
from mitmproxy.proxy import commands, events, layer, tunnel
from mitmproxy.proxy.context import Context
from mitmproxy.proxy.layers import http as engine
from mitmproxy.proxy.layers.http import HTTPMode

from nsharness_proxy import refusal
from nsharness_proxy.codec import PROTOCOL
from nsharness_proxy.host import Host
from nsharness_proxy.layers import IDENTITY, ClientHttp, Exchange, GoneHook, HostHttp
from nsharness_proxy.pool import Connections, Pool
from nsharness_proxy.secured import HostTls
from nsharness_proxy.streams import AbandonHook, ClientStreams, Gone

Commands = layer.CommandGenerator[None]


class HostConnection(layer.Layer):
    """Opens a connection to a host, and speaks HTTP on it."""

    http: HostHttp | None = None

    @property
    def idle(self) -> bool:
        """Whether another request can be sent on it."""
        return self.http is not None and self.http.stream_id is None

    def _handle_event(self, event: events.Event) -> Commands:
        error: str | None = yield commands.OpenConnection(self.context.server)
        if error is None:
            self.http = http1 = HostHttp(self.context)
            self._handle_event = http1.handle_event  # type: ignore[method-assign]
            yield from http1.handle_event(event)
        else:
            error = refusal.upstream_reason(error, during_connect=True)
        yield engine.RegisterHttpConnection(self.context.server, error)


class Http(engine.HttpLayer):
    """All requests of one client connection."""

    def __init__(
        self, context: Context, mode: HTTPMode, malformed: Callable[[], None], begun: Callable[[], None]
    ) -> None:
        super().__init__(context, mode)
        self._malformed = malformed
        self._begun = begun
        self.connections = Connections(context)
        self._pool = Pool()

    def _handle_event(self, event: events.Event) -> Commands:
        if isinstance(event, events.Start):
            client = self._client()
            self.connections[self.context.client] = client
            yield from self.event_to_child(client, event)
            return
        if isinstance(event, events.ConnectionEvent) and event.connection not in self.connections:
            # It failed before it stood, and was forgotten.
            return
        yield from super()._handle_event(event)
        if isinstance(event, events.ConnectionClosed) and event.connection.state is ConnectionState.CLOSED:
            self._lose(event.connection)

    def _client(self) -> ClientHttp | ClientStreams:
        if self.context.client.alpn == PROTOCOL:
            return ClientStreams(self.context.fork(), self._malformed, lambda: len(self.streams))
        return ClientHttp(self.context.fork(), self._malformed, self._begun)

    def _lose(self, connection: Connection) -> None:
        """A connection to a host is no more."""
        if connection is not self.context.client and connection not in self.waiting_for_establishment:
            self.connections.pop(connection, None)
            self._pool.lose(connection)

    def register_connection(self, command: engine.RegisterHttpConnection) -> Commands:
        yield from super().register_connection(command)
        if command.err is not None:
            self._lose(command.connection)

    def event_to_child(self, child: layer.Layer | engine.HttpStream, event: events.Event) -> Commands:
        for command in super().event_to_child(child, event):
            if isinstance(command, Gone):
                if isinstance(gone := self.streams.get(command.stream_id), Exchange):
                    yield GoneHook(gone.flow)
                for connection in self._pool.busy_with(command.stream_id):
                    yield AbandonHook(connection)
            else:
                yield command

    def make_stream(self, stream_id: int) -> Commands:
        # A fork of the context would make a server connection as well, which nobody ever uses.
        own = copy(self.context)
        own.layers = self.context.layers.copy()
        self.streams[stream_id] = Exchange(own, stream_id)
        yield from self.event_to_child(self.streams[stream_id], events.Start())

    def get_connection(self, event: engine.GetHttpConnection, *, reuse: bool = True) -> Commands:
        """Use an open connection of this client to the same host, port and scheme, or open one.

        The address is the host's name: it is resolved, checked and mapped where the connection is made.
        """
        asking = self.command_sources[event]
        assert isinstance(asking, Exchange)
        identity = asking.flow.metadata.get(IDENTITY)
        for connection in self.connections:
            if (
                reuse
                and getattr(connection, "identity", None) == identity
                and event.connection_spec_matches(connection)
                and self._pool.is_free(connection, self.streams)
            ):
                stream = self.command_sources.pop(event)
                self._give(connection, stream)
                completed = engine.GetHttpConnectionCompleted(event, (connection, None))
                yield from self.event_to_child(stream, completed)
                return
        context = self.context.fork()
        context.server = Host(
            address=event.address, transport_protocol="tcp", identity=identity, flow=asking.flow
        )
        stack = tunnel.LayerStack()
        if event.tls:
            context.server.sni = event.address[0]
            stack /= HostTls(context)
        host = HostConnection(context)
        stack /= host
        self._pool.add(context.server, host)
        self._give(context.server, self.command_sources[event])
        self.connections[context.server] = stack[0]
        self.waiting_for_establishment[context.server].append(event)
        yield from self.event_to_child(stack[0], events.Start())

    def _give(self, connection: Connection, stream: layer.Layer) -> None:
        assert isinstance(stream, Exchange)
        self._pool.give(connection, stream.stream_id)

    def held(self, connection: Connection) -> int:
        """Bytes from a host that are kept because the client does not take them."""
        client = self.connections.get(self.context.client)
        return client.held(self._pool.stream(connection)) if isinstance(client, ClientStreams) else 0

    @property
    def pending(self) -> int:
        """Bytes from the client that are kept because they cannot go on yet; in HTTP/2 the windows of its
        streams bound them, and it must be read whatever they are."""
        client = self.connections.get(self.context.client)
        if isinstance(client, ClientStreams):
            return 0
        kept = len(client.buf) if isinstance(client, ClientHttp) else 0
        return kept + sum(s.pending for s in self.streams.values() if isinstance(s, Exchange))
