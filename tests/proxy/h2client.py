"""An HTTP/2 client that sends what it is told, whatever the protocol says, and keeps what it is answered."""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import h2.settings

from tests.proxy.rig import DEADLINE, Answer, Proxy, Sandbox, tunnel

Fields = Iterable[tuple[str, str]]


def get(host: str, path: str = "/", *more: tuple[str, str], method: str = "GET") -> list[tuple[str, str]]:
    """The fields of an ordinary request."""
    return [(":method", method), (":scheme", "https"), (":authority", host), (":path", path), *more]


@dataclass
class Stream:
    """What came of one request. ``reset`` is the code that ended it, ``ended`` the answer's proper end."""

    fields: list[tuple[str, str]] = field(default_factory=list)
    interim: list[list[tuple[str, str]]] = field(default_factory=list)
    trailers: list[tuple[str, str]] = field(default_factory=list)
    body: bytearray = field(default_factory=bytearray)
    ended: bool = False
    reset: int | None = None

    @property
    def answer(self) -> Answer:
        headers = dict(self.fields)
        return Answer(int(headers.pop(":status")), headers, bytes(self.body))


class Http2:
    """One connection. With ``windows`` false it never makes room for more of an answer."""

    def __init__(
        self, sock: ssl.SSLSocket, *, windows: bool = True, settings: dict[Any, int] | None = None
    ) -> None:
        self.sock = sock
        self.codec = h2.connection.H2Connection(
            h2.config.H2Configuration(
                client_side=True,
                header_encoding="latin-1",
                validate_outbound_headers=False,
                normalize_outbound_headers=False,
            )
        )
        self._windows = windows
        self.streams: dict[int, Stream] = {}
        self.goaway: int | None = None
        self.closed = False
        self.codec.initiate_connection()
        if settings:
            self.codec.update_settings(settings)
        self.flush()

    def flush(self) -> None:
        self.sock.sendall(self.codec.data_to_send())

    def send(self, fields: Fields, *, end: bool = True, flush: bool = True) -> int:
        """Begin a request; its number."""
        number = self.codec.get_next_available_stream_id()
        self.streams[number] = Stream()
        self.codec.send_headers(number, list(fields), end_stream=end)
        if flush:
            self.flush()
        return number

    def send_body(self, number: int, data: bytes, *, end: bool = True) -> None:
        """Send a body as far as the windows allow, waiting for them."""
        view = memoryview(data)
        while view:
            room = min(self.codec.local_flow_control_window(number), 16384)
            if room == 0:
                self.flush()
                self.read()
                continue
            self.codec.send_data(number, bytes(view[:room]))
            view = view[room:]
        if end:
            self.codec.end_stream(number)
        self.flush()

    def read(self) -> bool:
        """Take what has come; False at the end of the connection."""
        try:
            data = self.sock.recv(1 << 16)
        except (ConnectionError, ssl.SSLEOFError):
            data = b""
        if not data:
            self.closed = True
            return False
        for event in self.codec.receive_data(data):
            self._take(event)
        with contextlib.suppress(OSError):
            self.flush()
        return True

    def _take(self, event: h2.events.Event) -> None:
        stream = self.streams.get(getattr(event, "stream_id", None) or 0, Stream())
        match event:
            case h2.events.ResponseReceived():
                stream.fields = [(str(n), str(v)) for n, v in event.headers or ()]
            case h2.events.InformationalResponseReceived():
                stream.interim.append([(str(n), str(v)) for n, v in event.headers or ()])
            case h2.events.TrailersReceived():
                stream.trailers = [(str(n), str(v)) for n, v in event.headers or ()]
            case h2.events.DataReceived():
                stream.body += event.data or b""
                if self._windows:
                    with contextlib.suppress(h2.exceptions.ProtocolError):
                        size = event.flow_controlled_length or 0
                        self.codec.acknowledge_received_data(size, event.stream_id or 0)
            case h2.events.StreamEnded():
                stream.ended = True
            case h2.events.StreamReset():
                stream.reset = int(event.error_code or 0)
            case h2.events.ConnectionTerminated():
                self.goaway = int(event.error_code or 0)

    def until(self, predicate: Callable[[], bool]) -> None:
        while not predicate():
            assert self.read(), "the connection ended"

    def finish(self, *numbers: int) -> list[Stream]:
        """Wait until these streams are over; what came of them."""
        wanted = [self.streams[number] for number in numbers]
        while not all(stream.ended or stream.reset is not None for stream in wanted):
            if not self.read():
                break
        return wanted

    def ask(self, fields: Fields, body: bytes | None = None) -> Answer:
        """A whole request and its whole answer."""
        number = self.send(fields, end=body is None)
        if body is not None:
            self.send_body(number, body)
        (stream,) = self.finish(number)
        assert stream.ended, f"no answer: {stream}"
        return stream.answer

    def drain(self) -> None:
        """Read until the other side closes."""
        while self.read():
            pass


@contextlib.contextmanager
def through_tunnel(
    proxy: Proxy, sandbox: Sandbox, target: str, *, protocols: Iterable[str] = ("h2",), **more: Any
) -> Iterator[Http2]:
    """HTTP/2 inside TLS inside a CONNECT tunnel."""
    context = proxy.trust()
    context.set_alpn_protocols(list(protocols))
    with sandbox.connect() as client:
        client.settimeout(DEADLINE)
        assert tunnel(client, target).status == 200
        with context.wrap_socket(client, server_hostname=target.rpartition(":")[0]) as secured:
            assert secured.selected_alpn_protocol() == "h2"
            yield Http2(secured, **more)
