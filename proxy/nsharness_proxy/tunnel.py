"""A tunnel: TLS to an allowed host that is passed through, once its first message has named the host.

Nothing is decrypted, so nothing else can be decided on: ``route`` says for which hosts that is enough. The
host's certificate is the client's to verify. Both directions are independent of each other: that one side
does not read holds up what goes to it, and nothing else.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from mitmproxy.connection import Connection, ConnectionState, Server
from mitmproxy.proxy import commands, events, layer
from mitmproxy.proxy.context import Context

from nsharness.audit.event import Road
from nsharness.policy.authority import Authority
from nsharness_proxy.hello import ALERT, NOT_TLS, HelloError, server_name
from nsharness_proxy.refusal import upstream_reason
from nsharness_proxy.sandbox import Sandbox, next_number

Commands = layer.CommandGenerator[None]


@dataclass
class EndOfStreamHook(commands.StartHook):  # type: ignore[no-untyped-call]
    """Nothing more will be sent on a connection. The engine's own command for it closes the connection whole
    where it was made by a CONNECT request."""

    connection: Connection
    name: ClassVar[str] = "end_of_stream"
    blocking = False


class Tunnel(layer.Layer):
    """One connection that is passed through to ``leads``, which ``rule`` allows. ``approve`` is called before
    the connection to it is asked for."""

    def __init__(
        self,
        context: Context,
        sandbox: Sandbox,
        road: Road,
        leads: Authority,
        rule: str,
        approve: Callable[[Authority], None],
    ) -> None:
        super().__init__(context)
        self._sandbox = sandbox
        self._road: Road = road
        self._leads = leads
        self._rule = rule
        self._approve = approve
        self._hello = b""
        self._number = 0
        self._started = 0.0
        self._sent = self._received = 0
        context.server = Server(address=(leads.host, leads.port), transport_protocol="tcp")

    @property
    def pending(self) -> int:
        """Bytes from the client that wait for the host."""
        waiting = (event for event in self._paused_event_queue if isinstance(event, events.DataReceived))
        return len(self._hello) + sum(len(event.data) for event in waiting)

    def _handle_event(self, event: events.Event) -> Commands:
        """Until the first message is there."""
        if isinstance(event, events.ConnectionClosed):
            yield from self._close()
        elif isinstance(event, events.DataReceived):
            self._hello += event.data
            try:
                name = server_name(self._hello)
                if name is None:
                    return
                if name != self._leads.host:
                    raise HelloError("sni-mismatch")
            except HelloError as error:
                self._record("deny", reason=str(error))
                if str(error) != NOT_TLS:
                    yield commands.SendData(self.context.client, ALERT)
                yield from self._close()
                return
            yield from self._open()

    def _open(self) -> Commands:
        self._number, self._started = next_number(), time.monotonic()
        self._record("allow", reason="tunnel")
        self._approve(self._leads)
        error: str | None = yield commands.OpenConnection(self.context.server)
        if error is not None:
            self._end("error", reason=upstream_reason(error, during_connect=True))
            yield from self._close()
            return
        self._handle_event = self._pass_on  # type: ignore[method-assign]
        hello, self._hello = self._hello, b""
        self._sent = len(hello)
        yield commands.SendData(self.context.server, hello)

    def _pass_on(self, event: events.Event) -> Commands:
        if not isinstance(event, events.ConnectionEvent):
            return
        client, server = self.context.client, self.context.server
        from_client = event.connection is client
        if isinstance(event, events.DataReceived):
            self._sent += len(event.data) if from_client else 0
            self._received += 0 if from_client else len(event.data)
            yield commands.SendData(server if from_client else client, event.data)
        elif (
            event.connection.state is ConnectionState.CLOSED
            or not (client.state | server.state) & ConnectionState.CAN_READ
        ):
            self._end("response")
            yield from self._close()
        else:
            yield EndOfStreamHook(server if from_client else client)

    def _close(self) -> Commands:
        self._handle_event = self._closed  # type: ignore[method-assign]
        for connection in (self.context.server, self.context.client):
            if connection.state is not ConnectionState.CLOSED:
                yield commands.CloseConnection(connection)

    def _closed(self, event: events.Event) -> Commands:
        yield from ()

    def _end(self, action: Any, **facts: Any) -> None:
        seconds = round(time.monotonic() - self._started, 6)
        self._record(action, sent=self._sent, received=self._received, seconds=seconds, **facts)

    def _record(self, action: Any, **facts: Any) -> None:
        self._sandbox.record(
            action,
            self._road,
            request=self._number,
            scheme="https",
            host=self._leads.host,
            port=self._leads.port,
            rule=self._rule,
            **facts,
        )
