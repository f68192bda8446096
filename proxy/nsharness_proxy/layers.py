"""HTTP as this proxy speaks it: the engine's layers, with what they lack to be trusted.

The engine turns bytes into requests and back. Added are: refusals that are sent at once, whatever
is still to come of the request; a hook between the moment when the connection to the host stands
and the moment when the request goes out; bounds on what is kept in memory; error pages of our own;
and HTTP/1.1 as the only protocol towards hosts.

``Exchange`` is one request and its answer · ``ClientHttp`` and ``HostHttp`` are the connections, and
``streams`` has the one to clients that speak HTTP/2 · ``conversation`` joins them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, ClassVar, cast

from h11._readers import ChunkedReader, Http10Reader
from mitmproxy import http
from mitmproxy.connection import ConnectionState
from mitmproxy.flow import Error
from mitmproxy.proxy import commands, events, layer
from mitmproxy.proxy.context import Context
from mitmproxy.proxy.layers import http as engine
from mitmproxy.proxy.layers.http import _events as message
from mitmproxy.proxy.layers.http._base import HttpEvent, ReceiveHttp
from mitmproxy.proxy.layers.http._hooks import HttpErrorHook
from mitmproxy.proxy.layers.http._http1 import Http1Client, Http1Server

from nsharness.policy import headers
from nsharness_proxy import hops, http1, refusal
from nsharness_proxy.bodies import BodyRefusedError
from nsharness_proxy.chunks import Chunks
from nsharness_proxy.codec import PROTOCOL
from nsharness_proxy.messages import WebSocket
from nsharness_proxy.pages import response
from nsharness_proxy.secured import Farewell
from nsharness_proxy.streams import Consumed, RoomHook

TARGET = "target"
"""Key in a flow's metadata: the scheme and authority of the request line, as they came."""

CUT = "cut"
"""Key in a flow's metadata: its response is one of ours, in place of the host's."""

IDENTITY = "identity"
"""Key in a flow's metadata, if its host may be shown a client certificate: whatever says which. A
connection is made for one identity, and no request with another, or without, is sent on it."""

MAX_PENDING = 256 * 1024
"""Bytes from a client that may wait for the host before no more are read."""

Commands = layer.CommandGenerator[None]

NOT_FORWARDED = refusal.malformed("this is no request that could be forwarded")


@dataclass
class UpstreamReadyHook(commands.StartHook):  # type: ignore[no-untyped-call]
    """The connection to the host stands and is verified; the request has not been sent."""

    # Dataclass hooks have exactly one argument.
    flow: http.HTTPFlow
    name: ClassVar[str] = "upstream_ready"


@dataclass
class GoneHook(commands.StartHook):  # type: ignore[no-untyped-call]
    """The client waits for the answer to a request no more, whatever that request is waiting for."""

    flow: http.HTTPFlow
    name: ClassVar[str] = "gone"
    blocking = False


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
                self.flow.response = response(stopped.refused, self.flow.request.method)
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
        answer = self.flow.response
        assert answer is not None
        if not self._bodyless:
            answer.headers["connection"] = "close"
        client, content = self.context.client, answer.raw_content
        yield engine.SendHttp(message.ResponseHeaders(self.stream_id, answer, not content), client)
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
    """What both sides of HTTP/1 have in common: chunks are read strictly, and ``Connection`` as it came,
    before we took it out of the message."""

    _closing = False

    def read_body(self, event: events.Event) -> Commands:
        this = cast(Any, self)
        if isinstance(this.body_reader, ChunkedReader):
            this.body_reader = Chunks()
        yield from super().read_body(event)  # type: ignore[misc]

    def mark_done(self, *, request: bool = False, response: bool = False) -> Commands:
        this = cast(Any, self)
        done = (request or this.request_done) and (response or this.response_done)
        if done and self._closing and this.response.status_code != HTTPStatus.SWITCHING_PROTOCOLS:
            yield Farewell(this.conn)
            this.state = this.done
            return
        for command in super().mark_done(request=request, response=response):  # type: ignore[misc]
            yield Farewell(this.conn) if isinstance(command, commands.CloseConnection) else command


class ClientHttp(_Connection, Http1Server):
    """The client's connection."""

    def __init__(self, context: Context, malformed: Callable[[], None], begun: Callable[[], None]) -> None:
        """``begun`` is called with each part of a head that is not whole yet."""
        super().__init__(context)
        self._malformed = malformed
        self._begun = begun

    def read_headers(self, event: events.ConnectionEvent) -> Commands:
        if isinstance(event, events.DataReceived):
            try:
                head = self._examine()
            except http1.HeadTooLargeError:
                yield from self._reject(refusal.Refused(431, "headers-too-large"))
                return
            except http1.HeadError:
                yield from self._reject(NOT_FORWARDED)
                return
            if head is None:
                self._begun()
                return
            # A tunnel is another connection.
            self._closing = head.closes and head.method != b"CONNECT"
        for command in super().read_headers(event):
            if isinstance(command, commands.SendData):
                # All that is ever sent from here is an error page, and it quotes the request.
                self._malformed()
                command = commands.SendData(self.conn, NOT_FORWARDED.page())
            yield command

    def _examine(self) -> http1.Head | None:
        """The head that has come, before anybody else interprets it."""
        while bytes(self.buf).startswith(b"\r\n"):
            # RFC 9112 section 2.2: empty lines before a request are ignored.
            self.buf.maybe_extract_at_most(2)
        return http1.request_head(bytes(self.buf))

    def _reject(self, refused: refusal.Refused) -> Commands:
        self._malformed()
        yield commands.SendData(self.conn, refused.page())
        yield Farewell(self.conn)
        self.state = self.done

    def read_body(self, event: events.Event) -> Commands:
        reading = self.request
        for command in super().read_body(event):
            broken = isinstance(command, commands.CloseConnection) and reading is self.request
            if broken and self.response is None and isinstance(event, events.DataReceived):
                # The body is none: the connection ends, but not without a word.
                self._malformed()
                yield commands.SendData(self.conn, NOT_FORWARDED.page())
                self.state = self.done
            yield command

    def send(self, event: HttpEvent) -> Commands:
        if self.state == self.done:
            return  # Whatever this was the answer to, the client was told already that we are through.
        if not isinstance(event, message.ResponseProtocolError):
            yield from super().send(event)
            return
        if not self.conn.state & ConnectionState.CAN_WRITE:
            return
        status = event.code.http_status_code()
        if self.response is None and status is not None:
            upstream = refusal.upstream_failure(refusal.upstream_reason(event.message))
            method = self.request.method if self.request is not None else "GET"
            yield commands.SendData(self.conn, (NOT_FORWARDED if status < 500 else upstream).page(method))
        yield commands.CloseConnection(self.conn)


class HostHttp(_Connection, Http1Client):
    """A connection to a host."""

    def read_headers(self, event: events.ConnectionEvent) -> Commands:
        if isinstance(event, events.DataReceived) and self.request is not None:
            try:
                head = self._final_head()
            except http1.HeadError:
                yield from self._fail()
                return
            if head is None:
                return
            asked = headers.is_websocket(self.request.method, self.request.headers.fields)
            if head.status == HTTPStatus.SWITCHING_PROTOCOLS and not asked:
                yield from self._fail()
                return
            self._closing = head.closes
        for command in super().read_headers(event):
            if isinstance(command, ReceiveHttp) and isinstance(command.event, message.ResponseHeaders):
                answer = command.event.response
                if answer.status_code != HTTPStatus.SWITCHING_PROTOCOLS:
                    kept = hops.of_answer(answer.headers.fields, answer.status_code)
                    answer.headers = http.Headers(kept)
            yield command

    def read_body(self, event: events.Event) -> Commands:
        until_closed = isinstance(self.body_reader, Http10Reader)
        if isinstance(event, events.ConnectionClosed) and until_closed and getattr(self.conn, "cut", False):
            # RFC 9112 section 9.8: what ended with such a connection is incomplete.
            yield from self._fail("upstream-closed")
            return
        yield from super().read_body(event)

    def _final_head(self) -> http1.Head | None:
        """The head that has come, without those of 1xx answers but 101 before it: the engine would take the
        first for the answer (RFC 9110 section 15.2)."""
        while (head := http1.answer_head(bytes(self.buf))) is not None:
            if head.status >= HTTPStatus.OK or head.status == HTTPStatus.SWITCHING_PROTOCOLS:
                break
            self.buf.maybe_extract_at_most(head.size)
        return head

    def _fail(self, reason: str = "upstream-response-malformed") -> Commands:
        assert self.stream_id is not None
        yield commands.CloseConnection(self.conn)
        error = message.ResponseProtocolError(self.stream_id, reason, message.ErrorCode.GENERIC_SERVER_ERROR)
        yield ReceiveHttp(error)


class Closed(layer.Layer):
    """What is not HTTP: the connection ends."""

    def _handle_event(self, event: events.Event) -> Commands:
        if isinstance(event, events.Start):
            yield commands.CloseConnection(self.context.client)


def _text(value: bytes) -> str:
    return value.decode("utf-8", "surrogateescape")
