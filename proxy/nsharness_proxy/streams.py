"""HTTP/2 with clients: every stream is a request of its own, and goes on as one in HTTP/1.1.

The engine's layer for this keeps whatever a stalled stream cannot take, takes whatever a client sends,
and has no limits; so here is one that is thin and has them all:

- What waits for a client that does not read is bounded, because the host of that stream is not read
  from meanwhile (``ClientStreams.held``). What waits for a host is bounded by the stream's window, which is
  opened again only when the host took what came before (``RoomHook``). Neither holds up another stream.
- A stream is refused before there are more exchanges than ``MAX_STREAMS``, also of those that were reset.
- Every frame that moves no request forward is paid for out of a budget, which grows with what the
  connection is good for. So floods of resets (CVE-2023-44487), pings, settings or empty frames end it.
  Field blocks are bounded by the codec: 64 frames, and ``codec.MAX_FIELDS`` bytes when decoded.
- What the head may be is ``nsharness.policy.http2``'s to say.

Trailers are dropped, as in HTTP/1.1 (RFC 9110 section 6.5.1).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import ClassVar, Final

import h2.events
import h2.exceptions
from h2.errors import ErrorCodes
from mitmproxy import http
from mitmproxy.connection import Connection
from mitmproxy.proxy import commands, events, layer
from mitmproxy.proxy.context import Context
from mitmproxy.proxy.layers.http import DropStream
from mitmproxy.proxy.layers.http import _events as message
from mitmproxy.proxy.layers.http._base import HttpCommand, HttpConnection, HttpEvent, ReceiveHttp

from nsharness.policy.headers import HeaderError
from nsharness.policy.http2 import request_head
from nsharness_proxy import codec, refusal
from nsharness_proxy.codec import MAX_STREAMS, WINDOW
from nsharness_proxy.pages import response
from nsharness_proxy.secured import Farewell

MAX_HELD: Final = 64 * 1024
"""Bytes of one answer that may wait for the client before no more are read."""

BUDGET: Final = 1024
"""Frames without use that a connection may send at once; resets and settings count several times."""
_RESET_COST: Final = 8
_REQUEST_WORTH: Final = 16
_FRAME_WORTH: Final = 2

_GONE: Final = "Client disconnected."

Commands = layer.CommandGenerator[None]


@dataclass
class RoomHook(commands.StartHook):  # type: ignore[no-untyped-call]
    """Done when a host has taken most of what was sent to it, or is gone."""

    connection: Connection
    name: ClassVar[str] = "room"


@dataclass
class AbandonHook(commands.StartHook):  # type: ignore[no-untyped-call]
    """Nobody waits for what a host would send any more: its connection ends at once."""

    connection: Connection
    name: ClassVar[str] = "abandon"
    blocking = False


@dataclass
class Consumed(HttpEvent):
    """So many bytes of a request's body went on."""

    size: int


@dataclass
class Gone(HttpCommand):
    """A stream ended before its exchange did."""

    stream_id: int


@dataclass(slots=True)
class _Stream:
    waiting: bytearray = field(default_factory=bytearray)
    """What of the answer could not be sent yet."""
    owed: int = 0
    """Bytes of the request's body for which the window was not opened again."""
    request_ended: bool = False
    answered: bool = False
    ended: bool = False


class ClientStreams(HttpConnection):
    """A client's connection in HTTP/2. ``live`` counts the exchanges that there are."""

    def __init__(self, context: Context, malformed: Callable[[], None], live: Callable[[], int]) -> None:
        super().__init__(context, context.client)
        self._malformed = malformed
        self._live = live
        self._streams: dict[int, _Stream] = {}
        self._budget: float = BUDGET
        self._counted = time.monotonic()
        self._codec = codec.make()

    def held(self, stream_id: int) -> int:
        """Bytes of an answer that wait for the client."""
        stream = self._streams.get(stream_id)
        return len(stream.waiting) if stream else 0

    def _handle_event(self, event: events.Event) -> Commands:
        if isinstance(event, events.Start):
            self._codec.initiate_connection()
            self._codec.increment_flow_control_window(MAX_STREAMS * WINDOW - WINDOW)
        elif isinstance(event, HttpEvent):
            yield from self._send(event)
        elif isinstance(event, events.DataReceived):
            if not (yield from self._receive(event.data)):
                return
        elif isinstance(event, events.ConnectionClosed):
            yield from self._end()
            return
        self._pump()
        yield from self._write()

    def _write(self) -> Commands:
        if data := self._codec.data_to_send():
            yield commands.SendData(self.conn, data)

    # What the client sends

    def _receive(self, data: bytes) -> layer.CommandGenerator[bool]:
        """Whether the connection goes on."""
        try:
            received = self._codec.receive_data(data)
        except (h2.exceptions.ProtocolError, ValueError, IndexError):
            # The codec has put down why, for the client.
            self._malformed()
            yield from self._write()
            yield from self._end()
            return False
        for each in received:
            if isinstance(each, h2.events.ConnectionTerminated):
                yield from self._end()
                return False
            yield from self._take(each)
            if self._budget < 0:
                self._malformed()
                self._codec.close_connection(ErrorCodes.ENHANCE_YOUR_CALM)
                yield from self._write()
                yield from self._end()
                return False
        return True

    def _take(self, each: h2.events.Event) -> Commands:
        match each:
            case h2.events.RequestReceived():
                yield from self._begin(each)
            case h2.events.DataReceived():
                yield from self._take_data(each)
            case h2.events.StreamEnded():
                if (stream := self._stream(each)) is not None:
                    stream.request_ended = True
                    yield ReceiveHttp(message.RequestEndOfMessage(each.stream_id or 0))
            case h2.events.StreamReset():
                self._spend(_RESET_COST)
                yield from self._forget(each.stream_id or 0)
            case h2.events.RemoteSettingsChanged():
                self._spend(_RESET_COST)
                codec.bound_table(self._codec)
            case _:
                self._spend(1)

    def _begin(self, received: h2.events.RequestReceived) -> Commands:
        stream_id = received.stream_id or 0
        state = self._codec.streams.get(stream_id)
        if state is None or state.closed:
            # Reset by a frame that came with it.
            return
        if self._live() >= MAX_STREAMS:
            self._spend(_RESET_COST)
            self._codec.reset_stream(stream_id, ErrorCodes.REFUSED_STREAM)
            return
        self._streams[stream_id] = _Stream()
        ended = received.stream_ended is not None
        try:
            head = request_head(codec.pairs(received.headers or ()), ended=ended)
        except HeaderError as error:
            self._malformed()
            self._spend(_RESET_COST)
            self._answer(stream_id, response(refusal.malformed(str(error))))
            return
        request = http.Request(
            host="",
            port=0,
            method=head.method,
            scheme=head.scheme,
            authority=head.authority,
            path=head.path,
            http_version=b"HTTP/1.1",
            headers=http.Headers(head.fields),
            content=None,
            trailers=None,
            timestamp_start=time.time(),
            timestamp_end=None,
        )
        yield ReceiveHttp(message.RequestHeaders(stream_id, request, ended))

    def _take_data(self, received: h2.events.DataReceived) -> Commands:
        stream_id, data = received.stream_id or 0, received.data or b""
        size = received.flow_controlled_length or 0
        stream = self._streams.get(stream_id)
        if stream is None:
            self._open_window(stream_id, size)
            return
        # Padding goes nowhere.
        self._open_window(stream_id, size - len(data))
        if not data:
            self._spend(0 if received.stream_ended else 1)
            return
        stream.owed += len(data)
        self._earn(_FRAME_WORTH * len(data) / WINDOW)
        yield ReceiveHttp(message.RequestData(stream_id, data))

    def _stream(self, event: h2.events.StreamEnded) -> _Stream | None:
        return self._streams.get(event.stream_id or 0)

    # What is sent to the client

    def _send(self, event: HttpEvent) -> Commands:
        stream = self._streams.get(event.stream_id)
        if stream is None:
            return
        if isinstance(event, Consumed):
            size = min(event.size, stream.owed)
            stream.owed -= size
            self._open_window(event.stream_id, size)
        elif isinstance(event, message.ResponseHeaders):
            self._send_head(event.stream_id, stream, event.response)
        elif isinstance(event, message.ResponseData):
            stream.waiting += event.data
        elif isinstance(event, message.ResponseEndOfMessage):
            stream.ended = True
        elif isinstance(event, message.ResponseProtocolError):
            yield from self._fail(event, stream)

    def _send_head(self, stream_id: int, stream: _Stream, response: http.Response) -> None:
        stream.answered = response.status_code >= 200
        with suppress(h2.exceptions.ProtocolError):
            self._codec.send_headers(stream_id, codec.answer_head(response))

    def _answer(self, stream_id: int, response: http.Response) -> None:
        """Send an answer of our own, whole."""
        stream = self._streams[stream_id]
        self._send_head(stream_id, stream, response)
        stream.waiting += response.raw_content or b""
        stream.ended = True

    def _fail(self, event: message.ResponseProtocolError, stream: _Stream) -> Commands:
        status = event.code.http_status_code()
        if stream.answered or status is None:
            self._reset(event.stream_id, ErrorCodes.INTERNAL_ERROR)
            del self._streams[event.stream_id]
            self._open_window(event.stream_id, stream.owed)
        else:
            upstream = refusal.upstream_failure(refusal.upstream_reason(event.message))
            refused = refusal.malformed("") if status < 500 else upstream
            self._answer(event.stream_id, response(refused))
        yield DropStream(event.stream_id)
        yield Gone(event.stream_id)

    def _pump(self) -> None:
        """Send what the client has room for, a frame of each stream in turn."""
        more = True
        while more:
            more = False
            for stream_id, stream in tuple(self._streams.items()):
                if stream.waiting or stream.ended:
                    more |= self._push(stream_id, stream)

    def _push(self, stream_id: int, stream: _Stream) -> bool:
        """Whether there may be more to send for a stream."""
        try:
            if stream.waiting:
                room = self._codec.local_flow_control_window(stream_id)
                size = min(room, self._codec.max_outbound_frame_size, len(stream.waiting))
                if size <= 0:
                    return False
                self._codec.send_data(stream_id, bytes(stream.waiting[:size]))
                del stream.waiting[:size]
                self._earn(_FRAME_WORTH)
                return True
            self._codec.end_stream(stream_id)
        except h2.exceptions.ProtocolError:
            # Reset by a frame that has come, and is still to be taken.
            stream.waiting.clear()
            stream.ended = False
            return False
        if not stream.request_ended:
            # RFC 9113 section 8.1: the answer is whole, and nobody wants the rest of the request.
            self._reset(stream_id, ErrorCodes.NO_ERROR)
        del self._streams[stream_id]
        self._open_window(stream_id, stream.owed)
        self._earn(_REQUEST_WORTH)
        return False

    # Ends

    def _reset(self, stream_id: int, code: ErrorCodes) -> None:
        with suppress(h2.exceptions.ProtocolError):
            self._codec.reset_stream(stream_id, code)

    def _forget(self, stream_id: int) -> Commands:
        """A stream is over before its exchange is."""
        stream = self._streams.pop(stream_id, None)
        if stream is not None:
            self._open_window(stream_id, stream.owed)
            yield ReceiveHttp(
                message.RequestProtocolError(stream_id, _GONE, message.ErrorCode.CLIENT_DISCONNECTED)
            )
            yield Gone(stream_id)

    def _end(self) -> Commands:
        """The connection is over."""
        self._handle_event = self._ended  # type: ignore[method-assign]
        yield Farewell(self.conn)
        for stream_id in tuple(self._streams):
            self._streams[stream_id].owed = 0
            yield from self._forget(stream_id)

    def _ended(self, event: events.Event) -> Commands:
        yield from ()

    def _open_window(self, stream_id: int, size: int) -> None:
        if size > 0:
            with suppress(h2.exceptions.ProtocolError):
                self._codec.acknowledge_received_data(size, stream_id)

    def _spend(self, cost: int) -> None:
        now = time.monotonic()
        self._earn(now - self._counted)
        self._counted = now
        self._budget -= cost

    def _earn(self, worth: float) -> None:
        if self._budget >= 0:
            self._budget = min(BUDGET, self._budget + worth)
