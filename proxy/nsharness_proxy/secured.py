"""TLS on both sides: the engine's layers, with a bound, and with ends that can be told from cuts."""

from __future__ import annotations

from contextlib import suppress

from mitmproxy.proxy import commands, events, layer
from mitmproxy.proxy.layers.tls import ClientTLSLayer, ServerTLSLayer
from OpenSSL import SSL

from nsharness_proxy import http1
from nsharness_proxy.host import Host

Commands = layer.CommandGenerator[None]


class Farewell(commands.CloseConnection):
    """Close a connection on which all was said that was to be: TLS tells the other side so (RFC 8446 section
    6.1), which otherwise must take what it got for a part where only its end says how long it is."""


class HostTls(ServerTLSLayer):
    """TLS with a host. One that ends it with an alert (RFC 8446 section 6.2; in TLS 1.3 those do that demand
    a certificate and get none) has ended the connection: the engine takes the alert for an end that was told
    of already, and the request would wait for as long as its client does."""

    _told = False

    def event_to_child(self, event: events.Event) -> Commands:
        if isinstance(event, events.ConnectionClosed) and event.connection is self.conn:
            self._told = True
        yield from super().event_to_child(event)

    def receive_close(self) -> Commands:
        if not self._told:
            if isinstance(self.conn, Host):
                self.conn.cut = True
            yield from self.event_to_child(events.ConnectionClosed(self.conn))


class ClientTls(ClientTLSLayer):
    """TLS with the client, whose first message is bounded: the engine reads all of it again with every piece
    that comes, and one may claim to have 16 MiB."""

    def receive_handshake_data(self, data: bytes) -> layer.CommandGenerator[tuple[bool, str | None]]:
        if not self.client_hello_parsed and len(self.recv_buffer) + len(data) > http1.MAX_HEAD:
            return False, "Cannot parse ClientHello"
        return (yield from super().receive_handshake_data(data))

    def send_close(self, command: commands.CloseConnection) -> Commands:
        if isinstance(command, Farewell):
            with suppress(SSL.Error):  # the handshake may not be done
                self.tls.shutdown()
            yield from self.tls_interact()
        yield from super().send_close(command)
