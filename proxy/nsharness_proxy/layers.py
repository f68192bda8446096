"""HTTP as this proxy speaks it: the engine's layers, with what they lack to be trusted.

The engine turns bytes into requests and back. Added are: refusals that are sent at once, whatever
is still to come of the request; a hook between the moment when the connection to the host stands
and the moment when the request goes out; bounds on what is kept in memory; error pages of our own;
and HTTP/1.1 as the only protocol towards hosts.

``Exchange`` is one request and its answer · ``ClientHttp`` and ``HostHttp`` are the connections, and
``streams`` has the one to clients that speak HTTP/2 · ``Http`` joins them.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, cast

from mitmproxy import http
from mitmproxy.connection import Connection, ConnectionState, Server
from mitmproxy.flow import Error
from mitmproxy.proxy import commands, events, layer, tunnel
from mitmproxy.proxy.context import Context
from mitmproxy.proxy.layers import http as engine
from mitmproxy.proxy.layers.http import HTTPMode
from mitmproxy.proxy.layers.http import _events as message
from mitmproxy.proxy.layers.http._base import HttpEvent, ReceiveHttp
from mitmproxy.proxy.layers.http._hooks import HttpErrorHook
from mitmproxy.proxy.layers.http._http1 import Http1Client, Http1Server
from mitmproxy.proxy.layers.tls import ClientTLSLayer, ServerTLSLayer

from nsharness.policy import headers
from nsharness_proxy import refusal
from nsharness_proxy.bodies import BodyRefusedError
from nsharness_proxy.codec import PROTOCOL
from nsharness_proxy.messages import WebSocket
from nsharness_proxy.streams import AbandonHook, ClientStreams, Consumed, Gone, RoomHook

TARGET = "target"
"""Key in a flow's metadata: the scheme and authority of the request line, as they came."""

CUT = "cut"
"""Key in a flow's metadata: its response is one of ours, in place of the host's."""

MAX_HEAD = 64 * 1024
"""Bytes of a request's or an answer's head at most."""
MAX_PENDING = 256 * 1024
"""Bytes from a client that may wait for the host before no more are read."""

Commands = layer.CommandGenerator[None]

NOT_FORWARDED = refusal.malformed("this is no request that could be forwarded")

_BLANK_LINE = re.compile(rb"\n\r?\n")
# Bare CR and LF, folded lines and control characters: every one of them has been a way to hide a request
# in another (RFC 9112 sections 2.2 and 5.2, RFC 9110 section 5.5).
_AMBIGUOUS = re.compile(rb"(?<!\r)\n|\r(?!\n)|\n[ \t]|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_INTERIM = re.compile(rb"HTTP/1\.[01] 1(?!01)[0-9][0-9]")


@dataclass
class UpstreamReadyHook(commands.StartHook):  # type: ignore[no-untyped-call]
    """The connection to the host stands and is verified; the request has not been sent."""

    # Dataclass hooks have exactly one argument.
    flow: http.HTTPFlow
    name: ClassVar[str] = "upstream_ready"


class Exchange(engine.HttpStream):
    """One request and its answer."""

    _bodyless = True

    def state_wait_for_request_headers(self, event: message.RequestHeaders) -> Commands:
        self._bodyless = event.end_stream
        yield from super().state_wait_for_request_headers(event)

    def check_invalid(self, request: bool) -> layer.CommandGenerator[bool]:
        if request:
            # The engine reads the host out of whichever place has one, and forgets which it was.
            data = self.flow.request.data
            self.flow.metadata[TARGET] = (_text(data.scheme), _text(data.authority))
        return (yield from super().check_invalid(request))

    def check_killed(self, emit_error_hook: bool) -> layer.CommandGenerator[bool]:
        # Called after every hook. A response that is there before the request is under way is a refusal.
        if self.flow.response is not None and self.client_state == self.state_wait_for_request_headers:
            yield from self._refuse()
            return True
        if self.flow.metadata.pop(CUT, False):
            yield from self._hang_up()
            yield from self._refuse()
            return True
        return (yield from super().check_killed(emit_error_hook))

    def state_stream_request_body(self, event: HttpEvent) -> Commands:
        try:
            yield from super().state_stream_request_body(event)
            if isinstance(event, message.RequestData) and self.context.client.alpn == PROTOCOL:
                # The window of this stream opens again when the host has taken it, and no other waits for it.
                yield RoomHook(self.context.server)
                consumed = Consumed(self.stream_id, len(event.data))
                yield engine.SendHttp(consumed, self.context.client)
        except BodyRefusedError as stopped:
            yield from self._hang_up()
            if self.server_state == self.state_wait_for_response_headers:
                self.flow.response = stopped.refused.response(self.flow.request.method)
                yield from self._refuse()
            else:
                yield from self._break_off(stopped)

    def state_stream_response_body(self, event: HttpEvent) -> Commands:
        try:
            yield from super().state_stream_response_body(event)
        except BodyRefusedError as stopped:
            self.flow.error = Error(str(stopped))
            yield HttpErrorHook(self.flow)
            yield from self._hang_up()
            yield from self._break_off(stopped)

    def flow_done(self) -> Commands:
        if self.flow.websocket is None:
            yield from super().flow_done()
            return
        self.child_layer = WebSocket(self.context, self.flow)
        self._handle_event = self.passthrough
        yield from self.child_layer.handle_event(events.Start())
        # Last, because data may come at once.
        yield engine.SendHttp(message.ResponseEndOfMessage(self.stream_id), self.context.client)

    def make_server_connection(self) -> layer.CommandGenerator[bool]:
        if not (yield from super().make_server_connection()):
            return False
        yield UpstreamReadyHook(self.flow)
        if self.flow.response is not None:
            yield from self._refuse()
            return False
        return True

    def _refuse(self) -> Commands:
        """Answer now. What is still to come of the request is read and dropped, so that the answer is
        not lost in a reset, and the connection ends after it."""
        response = self.flow.response
        assert response is not None
        if not self._bodyless:
            response.headers["connection"] = "close"
        client, content = self.context.client, response.raw_content
        yield engine.SendHttp(message.ResponseHeaders(self.stream_id, response, not content), client)
        if content:
            yield engine.SendHttp(message.ResponseData(self.stream_id, content), client)
        yield engine.SendHttp(message.ResponseEndOfMessage(self.stream_id), client)
        self.flow.live = False
        self.client_state = self.server_state = self.state_errored
        yield engine.DropStream(self.stream_id)

    def _hang_up(self) -> Commands:
        """End the connection to the host, in the middle of whatever it is."""
        ended = message.RequestProtocolError(self.stream_id, "stopped", message.ErrorCode.KILL)
        yield engine.SendHttp(ended, self.context.server)

    def _break_off(self, stopped: BodyRefusedError) -> Commands:
        """End the connection to the client, which sees that something is missing."""
        ended = message.ResponseProtocolError(self.stream_id, str(stopped), message.ErrorCode.KILL)
        yield engine.SendHttp(ended, self.context.client)
        self.flow.live = False
        self.client_state = self.server_state = self.state_errored
        yield engine.DropStream(self.stream_id)

    @property
    def pending(self) -> int:
        """Bytes of the request's body that wait for the host."""
        return sum(len(e.data) for e in self._paused_event_queue if isinstance(e, message.RequestData))


class _Connection:
    """What both sides of HTTP/1 have in common: trailers are dropped, as RFC 9110 section 6.5.1 permits."""

    def read_body(self, event: events.Event) -> Commands:
        this = cast(Any, self)
        try:
            yield from super().read_body(event)  # type: ignore[misc]
        except NotImplementedError:
            # The engine raises this for trailers, once it has read all of the message.
            yield ReceiveHttp(this.ReceiveEndOfMessage(this.stream_id))
            received = isinstance(self, Http1Server)
            yield from this.mark_done(request=received, response=not received)


class ClientHttp(_Connection, Http1Server):
    """The client's connection."""

    def __init__(self, context: Context, malformed: Callable[[], None]) -> None:
        super().__init__(context)
        self._malformed = malformed

    def read_headers(self, event: events.ConnectionEvent) -> Commands:
        if isinstance(event, events.DataReceived):
            refused = self._examine()
            if refused is not None:
                yield from self._reject(refused)
                return
        for command in super().read_headers(event):
            if isinstance(command, commands.SendData):
                # All that is ever sent from here is an error page, and it quotes the request.
                self._malformed()
                command = commands.SendData(self.conn, NOT_FORWARDED.page())
            yield command

    def _examine(self) -> refusal.Refused | None:
        """What is wrong with the bytes of a head before anybody interprets them."""
        while bytes(self.buf).startswith(b"\r\n"):
            # RFC 9112 section 2.2: empty lines before a request are ignored.
            self.buf.maybe_extract_at_most(2)
        data = bytes(self.buf)
        head = _BLANK_LINE.search(data)
        if (head.end() if head else len(data)) > MAX_HEAD:
            return refusal.Refused(431, "headers-too-large")
        if head and _AMBIGUOUS.search(data, 0, head.end()):
            return NOT_FORWARDED
        return None

    def _reject(self, refused: refusal.Refused) -> Commands:
        self._malformed()
        yield commands.SendData(self.conn, refused.page())
        yield commands.CloseConnection(self.conn)
        self.state = self.done

    def send(self, event: HttpEvent) -> Commands:
        if not isinstance(event, message.ResponseProtocolError):
            yield from super().send(event)
            return
        if not self.conn.state & ConnectionState.CAN_WRITE:
            return
        status = event.code.http_status_code()
        if self.response is None and status is not None:
            upstream = refusal.upstream_failure(refusal.upstream_reason(event.message))
            yield commands.SendData(self.conn, (NOT_FORWARDED if status < 500 else upstream).page())
        yield commands.CloseConnection(self.conn)


class HostHttp(_Connection, Http1Client):
    """A connection to a host."""

    def read_headers(self, event: events.ConnectionEvent) -> Commands:
        if isinstance(event, events.DataReceived) and self.request is not None:
            data = self._final_head()
            head = _BLANK_LINE.search(data)
            switches = data[9:12] == b"101"
            asked = headers.is_websocket(self.request.method, self.request.headers.fields)
            if (head.end() if head else len(data)) > MAX_HEAD or (switches and not asked):
                yield from self._fail()
                return
            if not head:
                return
        yield from super().read_headers(event)

    def _final_head(self) -> bytes:
        """What has come, without 1xx answers but 101: the engine would take the first for the answer
        (RFC 9110 section 15.2)."""
        while _INTERIM.match(bytes(self.buf)) and self.buf.maybe_extract_lines() is not None:
            pass
        return bytes(self.buf)

    def _fail(self) -> Commands:
        assert self.stream_id is not None
        yield commands.CloseConnection(self.conn)
        error = message.ResponseProtocolError(
            self.stream_id, "upstream-response-malformed", message.ErrorCode.GENERIC_SERVER_ERROR
        )
        yield ReceiveHttp(error)


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


class _Ignored(layer.Layer):
    """Nothing comes of anything."""

    def _handle_event(self, event: events.Event) -> Commands:
        yield from ()


class _Connections(dict[Connection, layer.Layer]):
    """What is still said to a connection that was forgotten is not heard."""

    def __init__(self, context: Context) -> None:
        self._ignored = _Ignored(context.fork())

    def __missing__(self, key: Connection) -> layer.Layer:
        return self._ignored


class Http(engine.HttpLayer):
    """All requests of one client connection."""

    def __init__(self, context: Context, mode: HTTPMode, malformed: Callable[[], None]) -> None:
        super().__init__(context, mode)
        self._malformed = malformed
        self.connections = _Connections(context)
        self._hosts: dict[Connection, HostConnection] = {}
        self._taken: dict[Connection, int] = {}
        """The stream that each connection to a host was given to last."""

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
        return ClientHttp(self.context.fork(), self._malformed)

    def _lose(self, connection: Connection) -> None:
        """Forget a connection to a host, of which one client can have any number one after the other."""
        if connection is not self.context.client and connection not in self.waiting_for_establishment:
            self.connections.pop(connection, None)
            self._hosts.pop(connection, None)
            self._taken.pop(connection, None)

    def register_connection(self, command: engine.RegisterHttpConnection) -> Commands:
        yield from super().register_connection(command)
        if command.err is not None:
            self._lose(command.connection)

    def event_to_child(self, child: layer.Layer | engine.HttpStream, event: events.Event) -> Commands:
        for command in super().event_to_child(child, event):
            if isinstance(command, Gone):
                for connection, stream_id in tuple(self._taken.items()):
                    if stream_id == command.stream_id and not self._hosts[connection].idle:
                        yield AbandonHook(connection)
            else:
                yield command

    def make_stream(self, stream_id: int) -> Commands:
        self.streams[stream_id] = Exchange(self.context.fork(), stream_id)
        yield from self.event_to_child(self.streams[stream_id], events.Start())

    def get_connection(self, event: engine.GetHttpConnection, *, reuse: bool = True) -> Commands:
        """Use an open connection of this client to the same host, port and scheme, or open one.

        The address is the host's name: it is resolved, checked and mapped where the connection is made.
        """
        for connection in self.connections:
            if reuse and event.connection_spec_matches(connection) and self._is_free(connection):
                stream = self.command_sources.pop(event)
                self._take(connection, stream)
                completed = engine.GetHttpConnectionCompleted(event, (connection, None))
                yield from self.event_to_child(stream, completed)
                return
        context = self.context.fork()
        context.server = Server(address=event.address, transport_protocol="tcp")
        stack = tunnel.LayerStack()
        if event.tls:
            context.server.sni = event.address[0]
            stack /= ServerTLSLayer(context)
        self._hosts[context.server] = HostConnection(context)
        stack /= self._hosts[context.server]
        self._take(context.server, self.command_sources[event])
        self.connections[context.server] = stack[0]
        self.waiting_for_establishment[context.server].append(event)
        yield from self.event_to_child(stack[0], events.Start())

    def _is_free(self, connection: Connection) -> bool:
        """Whether a connection stands, and no request is on it or about to be."""
        host = self._hosts.get(connection)
        taken = self._taken.get(connection) in self.streams
        return connection.connected and host is not None and host.idle and not taken

    def _take(self, connection: Connection, stream: layer.Layer) -> None:
        assert isinstance(stream, Exchange)
        self._taken[connection] = stream.stream_id

    def held(self, connection: Connection) -> int:
        """Bytes from a host that are kept because the client does not take them."""
        client = self.connections.get(self.context.client)
        return client.held(self._taken.get(connection, 0)) if isinstance(client, ClientStreams) else 0

    @property
    def pending(self) -> int:
        """Bytes from the client that are kept because they cannot go on yet; in HTTP/2 the windows of its
        streams bound them, and it must be read whatever they are."""
        client = self.connections.get(self.context.client)
        if isinstance(client, ClientStreams):
            return 0
        kept = len(client.buf) if isinstance(client, ClientHttp) else 0
        return kept + sum(s.pending for s in self.streams.values() if isinstance(s, Exchange))


class ClientTls(ClientTLSLayer):
    """TLS with the client, whose first message is bounded: the engine reads all of it again with every piece
    that comes, and one may claim to have 16 MiB."""

    def receive_handshake_data(self, data: bytes) -> layer.CommandGenerator[tuple[bool, str | None]]:
        if not self.client_hello_parsed and len(self.recv_buffer) + len(data) > MAX_HEAD:
            return False, "Cannot parse ClientHello"
        return (yield from super().receive_handshake_data(data))


class Closed(layer.Layer):
    """What is not HTTP: the connection ends."""

    def _handle_event(self, event: events.Event) -> Commands:
        if isinstance(event, events.Start):
            yield commands.CloseConnection(self.context.client)


def _text(value: bytes) -> str:
    return value.decode("utf-8", "surrogateescape")
