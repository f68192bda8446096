"""The connections to hosts that one client connection has: which of them is whose, and which is free."""

from __future__ import annotations

from collections.abc import Container
from typing import Protocol

from mitmproxy.connection import Connection
from mitmproxy.proxy import events, layer
from mitmproxy.proxy.context import Context


class Host(Protocol):
    """What speaks on a connection to a host."""

    @property
    def idle(self) -> bool: ...


class Pool:
    """Connections to hosts, each with the stream that was given to it last."""

    def __init__(self) -> None:
        self._hosts: dict[Connection, Host] = {}
        self._streams: dict[Connection, int] = {}

    def add(self, connection: Connection, host: Host) -> None:
        """A connection that is being made."""
        self._hosts[connection] = host

    def give(self, connection: Connection, stream_id: int) -> None:
        """From now on it is that stream's."""
        self._streams[connection] = stream_id

    def is_free(self, connection: Connection, live: Container[int]) -> bool:
        """Whether it stands, and no request is on it or, from one of the ``live`` streams, about to be."""
        host = self._hosts.get(connection)
        given = self._streams.get(connection) in live
        return connection.connected and host is not None and host.idle and not given

    def stream(self, connection: Connection) -> int:
        """The stream whose it is, or 0."""
        return self._streams.get(connection, 0)

    def busy_with(self, stream_id: int) -> list[Connection]:
        """The connections on which something of that stream is under way."""
        return [c for c, s in self._streams.items() if s == stream_id and not self._hosts[c].idle]

    def lose(self, connection: Connection) -> None:
        """Forget a connection: one client can have any number of them, one after the other."""
        self._hosts.pop(connection, None)
        self._streams.pop(connection, None)


class Connections(dict[Connection, layer.Layer]):
    """The engine's table of them. What is still said to a connection that was forgotten is not heard."""

    def __init__(self, context: Context) -> None:
        self._ignored = _Ignored(context.fork())

    def __missing__(self, key: Connection) -> layer.Layer:
        return self._ignored


class _Ignored(layer.Layer):
    """Nothing comes of anything."""

    def _handle_event(self, event: events.Event) -> layer.CommandGenerator[None]:
        yield from ()
