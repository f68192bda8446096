"""WebSocket messages, passed on frame by frame as they come.

The engine's own layer keeps every message until it is complete, and passes on what control frames carry.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final

from mitmproxy import http
from mitmproxy.proxy import commands, events, layer
from mitmproxy.proxy.context import Context
from mitmproxy.proxy.layers import websocket
from wsproto.connection import ConnectionState
from wsproto.events import BytesMessage, CloseConnection, Ping, Pong, TextMessage

from nsharness_proxy.bodies import BodyRefusedError, Inbound, Outbound

FILTERS: Final = "filters"
"""Key in a flow's metadata."""

_CLOSABLE: Final = (ConnectionState.OPEN, ConnectionState.REMOTE_CLOSING)

Commands = layer.CommandGenerator[None]


@dataclass(frozen=True, slots=True)
class Filters:
    """What makes the filter for one message from the client, and for one from the host."""

    outbound: Callable[[], Outbound]
    inbound: Callable[[], Inbound]


class WebSocket(websocket.WebsocketLayer):
    """Both directions of one WebSocket. A message that may not go on ends it."""

    def __init__(self, context: Context, flow: http.HTTPFlow) -> None:
        super().__init__(context, flow)
        filters: Filters = flow.metadata[FILTERS]
        self._makers: dict[bool, Callable[[], Outbound | Inbound]] = {
            True: filters.outbound,
            False: filters.inbound,
        }
        self._filters = {side: make() for side, make in self._makers.items()}

    def relay_messages(self, event: events.Event) -> Commands:
        """Pass on what has come from one side."""
        assert isinstance(event, events.ConnectionEvent)
        from_client = event.connection is self.context.client
        here, there = (self.client_ws, self.server_ws) if from_client else (self.server_ws, self.client_ws)
        here.receive_data(event.data if isinstance(event, events.DataReceived) else None)
        try:
            for each in here.events():
                yield from self._pass_on(each, from_client, there)
        except BodyRefusedError:
            yield from self._end()

    def _pass_on(self, each: Any, from_client: bool, there: websocket.WebsocketConnection) -> Commands:
        if isinstance(each, (TextMessage, BytesMessage)):
            data = each.data.encode() if isinstance(each, TextMessage) else bytes(each.data)
            clean = self._filtered(from_client, data, each.message_finished)
            # What is held back goes with the next piece.
            if clean or each.message_finished:
                text: Any = clean.decode() if isinstance(each, TextMessage) else clean
                yield there.send2(replace(each, data=text))
        elif isinstance(each, (Ping, Pong)):
            payload = self._control(from_client, bytes(each.payload))
            yield there.send2(replace(each, payload=payload))
        elif isinstance(each, CloseConnection):
            reason = self._control(from_client, (each.reason or "").encode()).decode()
            closing = replace(each, reason=reason or None)
            for side in (self.server_ws, self.client_ws):
                if side.state in _CLOSABLE:
                    yield side.send2(closing)
            yield from self._end()

    def _filtered(self, from_client: bool, data: bytes, last: bool) -> bytes:
        found = self._filters[from_client]
        clean = b"".join(found(data)) if data else b""
        if last:
            clean += b"".join(found(b""))
            self._filters[from_client] = self._makers[from_client]()
        return clean

    def _control(self, from_client: bool, payload: bytes) -> bytes:
        """A control frame may stand in the middle of a message, of which it is no part."""
        found = self._makers[from_client]()
        return b"".join(found(payload)) + b"".join(found(b"")) if payload else b""

    def _end(self) -> Commands:
        for side in (self.server_ws, self.client_ws):
            yield commands.CloseConnection(side.conn)
        yield websocket.WebsocketEndHook(self.flow)
        self.flow.live = False
        self._handle_event = self.done
