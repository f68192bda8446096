"""Two strict readers of HTTP/1.1, which have no code in common: h11, and llhttp that nodejs uses.

What both of them understand in the same way has one meaning. Neither has a part in the proxy's heads;
of bodies the proxy reads the chunks with h11.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import h11
import httptools

_HUGE = 1 << 30


@dataclass(slots=True)
class Message:
    """A request as one of the readers understood it. Without ``complete`` its body goes on."""

    method: str = ""
    target: str = ""
    fields: list[tuple[str, str]] = field(default_factory=list)
    body: bytes = b""
    complete: bool = False

    @property
    def hosts(self) -> tuple[str, ...]:
        return tuple(value for name, value in self.fields if name == "host")

    @property
    def meaning(self) -> tuple[str, str, tuple[str, ...], bytes, bool]:
        """What has to be the same for everybody who reads it."""
        return self.method, self.target, self.hosts, self.body, self.complete


@dataclass(slots=True)
class Reading:
    """The messages in some bytes; ``error`` is why the rest are none, ``partial`` that more is to come."""

    messages: list[Message] = field(default_factory=list)
    error: str = ""
    partial: bool = False


def by_h11(data: bytes) -> Reading:
    """The requests that a server with h11 sees. Empty lines before them, which it takes for errors, are
    skipped, as RFC 9112 section 2.2 has it."""
    reading = Reading()
    try:
        while data := _without_empty_lines(data):
            connection = h11.Connection(h11.SERVER, max_incomplete_event_size=_HUGE)
            connection.receive_data(data)
            message = _next(connection, reading)
            if message is None or not message.complete:
                reading.partial = True
                return reading
            # An answer that neither upgrades nor makes a tunnel: what follows is a request.
            connection.send(h11.Response(status_code=403, headers=[("content-length", "0")]))
            connection.send(h11.EndOfMessage())
            data = connection.trailing_data[0]
            if connection.our_state is h11.MUST_CLOSE:
                reading.error = "closed" if data else ""
                return reading
    except h11.RemoteProtocolError as error:
        reading.error = str(error)
    return reading


def _next(connection: h11.Connection, reading: Reading) -> Message | None:
    message: Message | None = None
    while True:
        event = connection.next_event()
        if isinstance(event, h11.Request):
            fields = [(n.decode("latin-1"), v.decode("latin-1")) for n, v in event.headers]
            message = Message(event.method.decode("latin-1"), event.target.decode("latin-1"), fields)
            reading.messages.append(message)
        elif isinstance(event, h11.Data) and message is not None:
            message.body += bytes(event.data)
        elif isinstance(event, h11.EndOfMessage) and message is not None:
            message.complete = True
            return message
        else:
            return message


def _without_empty_lines(data: bytes) -> bytes:
    while data.startswith(b"\r\n"):
        data = data[2:]
    return data


class Requests:
    """llhttp, one piece after the other; ``error`` when it understands no more."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.error = ""
        self._parser = httptools.HttpRequestParser(self)

    def feed(self, data: bytes) -> None:
        while data and not self.error:
            try:
                self._parser.feed_data(data)
                return
            except httptools.HttpParserUpgrade as upgrade:
                # Nobody here upgrades: what follows is the next request.
                self._parser = httptools.HttpRequestParser(self)
                data = data[upgrade.args[0] :]
            except httptools.HttpParserError as error:
                self.error = f"{type(error).__name__} {error}"

    def on_message_begin(self) -> None:
        self.messages.append(Message())

    def on_url(self, url: bytes) -> None:
        self.messages[-1].target += url.decode("latin-1")

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.messages[-1].method:
            return  # a trailer
        text = value.decode("latin-1").strip(" \t")
        self.messages[-1].fields.append((name.decode("latin-1").lower(), text))

    def on_headers_complete(self) -> None:
        self.messages[-1].method = self._parser.get_method().decode("latin-1")

    def on_body(self, body: bytes) -> None:
        self.messages[-1].body += body

    def on_message_complete(self) -> None:
        self.messages[-1].complete = True


def by_llhttp(data: bytes) -> Reading:
    """The requests that a server with llhttp sees; one whose head is not complete is none."""
    parser = Requests()
    parser.feed(data)
    seen = [message for message in parser.messages if message.method]
    partial = bool(parser.messages) and not parser.messages[-1].complete
    return Reading(seen, parser.error, partial and not parser.error)


def agreed(data: bytes) -> list[Message]:
    """The requests that both readers see, up to the first on which they differ or that one refuses.

    llhttp knows no methods but those of its list: from one of others on, h11 is believed alone.
    """
    common: list[Message] = []
    ours, theirs = by_h11(data), by_llhttp(data)
    for mine, other in zip(ours.messages, theirs.messages, strict=False):
        if mine.meaning != other.meaning:
            # The same request, of whose body one of them takes less: as much of it has one meaning.
            if mine.meaning[:3] == other.meaning[:3]:
                shorter = min(mine, other, key=lambda message: len(message.body))
                common.append(Message(*mine.meaning[:2], mine.fields, shorter.body))
            return common
        common.append(mine)
    if "method" in theirs.error.lower():
        common += ours.messages[len(common) :]
    return common


@dataclass(slots=True)
class Answer:
    """A final answer, or the beginning of one."""

    status: int
    body: bytes = b""
    complete: bool = False


def answers_by_h11(data: bytes, methods: Sequence[str] = (), *, ended: bool = True) -> list[Answer]:
    """The answers that a client with h11 sees to requests with these methods (GET where not named);
    ``h11.RemoteProtocolError`` for what is none. ``ended``: the connection has been closed after them,
    perhaps in the middle of a body."""
    answers: list[Answer] = []
    wanted = iter(methods)
    while data:
        connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=_HUGE)
        connection.send(h11.Request(method=next(wanted, "GET"), target="/", headers=[("host", "a")]))
        connection.send(h11.EndOfMessage())
        connection.receive_data(data)
        if ended:
            connection.receive_data(b"")
        while True:
            try:
                event = connection.next_event()
            except h11.RemoteProtocolError as error:
                if "closed connection without sending complete" in str(error):
                    return answers
                raise
            if isinstance(event, h11.Response):
                answers.append(Answer(event.status_code))
            elif isinstance(event, h11.Data):
                answers[-1].body += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                answers[-1].complete = True
                break
            elif not isinstance(event, h11.InformationalResponse):
                return answers
        data = connection.trailing_data[0]
    return answers


class _Answers:
    def __init__(self) -> None:
        self.answers: list[Answer] = []
        self.parser = httptools.HttpResponseParser(self)

    def on_headers_complete(self) -> None:
        self.answers.append(Answer(self.parser.get_status_code()))

    def on_body(self, body: bytes) -> None:
        self.answers[-1].body += body

    def on_message_complete(self) -> None:
        self.answers[-1].complete = True


def answers_by_llhttp(data: bytes) -> list[Answer]:
    """The final answers that a client with llhttp sees, none of them to HEAD."""
    reader = _Answers()
    reader.parser.feed_data(data)
    return [answer for answer in reader.answers if answer.status >= 200]
