"""One connection to a host: a request is sent, its answer is read, and perhaps another one follows.

The connection was made for one host and port, and one client certificate or none, which is what a request
on it is held against. Whatever comes while nothing was asked, or behind the end of an answer, ends it.
"""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import Final, Protocol, cast

from nsharness_proxy import http1
from nsharness_proxy.bodies import BodyRefusedError
from nsharness_proxy.fast.framing import BodyError, Chunked, Fixed, Reader, UntilClosed
from nsharness_proxy.http1 import Head, HeadError
from nsharness_proxy.judge import Reached
from nsharness_proxy.refusal import UPSTREAM_FAILED

_WITHOUT_BODY: Final = (HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED)
MALFORMED: Final = "upstream-response-malformed"
CLOSED: Final = "upstream-closed"


class Asker(Protocol):
    """Who waits for an answer."""

    def begun(self, head: Head) -> None:
        """The head of the answer."""

    def goes_on(self, piece: bytes, *, last: bool) -> None:
        """A piece of its body, perhaps empty. After the last one the host is free."""

    def broken(self, stopped: BodyRefusedError) -> None:
        """The body must not go on."""

    def failed(self, reason: str, error: Exception | None = None) -> None:
        """There will be no answer, or no more of it."""

    def host_full(self, full: bool) -> None:
        """Whether the host takes no more for now."""


class Host(asyncio.Protocol):
    """One connection. ``reached`` says what is at its other end."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport
        self._asker: Asker | None = None
        self._method = b""
        self._buffer = b""
        self._head: Head | None = None
        self._reader: Reader | None = None
        self.reached: Reached
        self.reusable = True
        self.policy: object = None
        """The policy that it was made by."""
        self.requests = 0
        self.free_since = 0.0

    # What its user does.

    def ask(self, asker: Asker, method: bytes, head: bytes) -> None:
        """Send a request's head, and tell ``asker`` of the answer."""
        self._asker, self._method = asker, method
        self._head = self._reader = None
        self._buffer = b""
        self.requests += 1
        self._transport.write(head)

    def send(self, data: bytes) -> None:
        """Send a piece of the request's body, framed."""
        self._transport.write(data)

    def pause(self) -> None:
        """Read nothing for now."""
        if not self._transport.is_closing():
            self._transport.pause_reading()

    def resume(self) -> None:
        """Read again."""
        if not self._transport.is_closing():
            self._transport.resume_reading()

    def close(self) -> None:
        """End the connection, whatever it was doing; nobody is told."""
        self._asker, self.reusable = None, False
        self._transport.abort()

    @property
    def closing(self) -> bool:
        """Whether it has ended."""
        return self._transport.is_closing()

    @property
    def unanswered(self) -> bool:
        """Whether nothing has come of the answer to the request at hand."""
        return self._head is None and not self._buffer

    # What the event loop says.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Those of uvloop are no instances of it.
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        asker = self._asker
        if asker is None:
            self.close()
            return
        self._buffer = self._buffer + data if self._buffer else data
        try:
            self._read(asker)
        except (HeadError, BodyError):
            self.close()
            asker.failed(MALFORMED)
        except BodyRefusedError as stopped:
            self.close()
            asker.broken(stopped)
        except Exception as error:  # noqa: BLE001 - whatever it is, the answer must not go on
            self.close()
            asker.failed(UPSTREAM_FAILED, error)

    def _read(self, asker: Asker) -> None:
        reader = self._reader
        if reader is None:
            head = self._answer_head()
            if head is None:
                return
            self._head = head
            self._reader = reader = self._reader_for(head)
            if head.closes or isinstance(reader, UntilClosed):
                self.reusable = False
            asker.begun(head)
            if self._asker is not asker:
                return
        piece, self._buffer = reader.feed(self._buffer)
        if reader.done:
            self._done(asker, piece)
        else:
            asker.goes_on(piece, last=False)

    def _done(self, asker: Asker, piece: bytes) -> None:
        if self._buffer:
            # Not an answer to anything.
            self._buffer, self.reusable = b"", False
        self._asker = None
        asker.goes_on(piece, last=True)

    def _answer_head(self) -> Head | None:
        """The head of the answer, once it is there; those of 1xx answers before it are dropped (RFC 9110
        section 15.2)."""
        at = 0
        # No more than one head is looked at at a time: there may be thousands.
        while (head := http1.answer_head(self._buffer[at : at + http1.MAX_HEAD + 1])) is not None:
            at += head.size
            if head.status == HTTPStatus.SWITCHING_PROTOCOLS:
                raise HeadError("nobody asked for another protocol")
            if head.status >= HTTPStatus.OK:
                if head.chunked and head.status == HTTPStatus.NO_CONTENT:
                    raise HeadError("it has a transfer coding and no body")
                break
        self._buffer = self._buffer[at:]
        return head

    def _reader_for(self, head: Head) -> Reader:
        if self._method == b"HEAD" or head.status in _WITHOUT_BODY:
            return Fixed(0)
        if head.chunked:
            return Chunked()
        return UntilClosed() if head.length is None else Fixed(head.length)

    def eof_received(self) -> None:
        self._ended()

    def connection_lost(self, exc: Exception | None) -> None:
        self._ended(broken=exc is not None)

    def _ended(self, *, broken: bool = False) -> None:
        self.reusable = False
        asker, self._asker = self._asker, None
        if asker is not None and isinstance(self._reader, UntilClosed) and not broken:
            try:
                asker.goes_on(b"", last=True)
            except BodyRefusedError as stopped:
                asker.broken(stopped)
            except Exception as error:  # noqa: BLE001 - as above
                asker.failed(UPSTREAM_FAILED, error)
        elif asker is not None:
            closed = self.unanswered or isinstance(self._reader, UntilClosed)
            asker.failed(CLOSED if closed else MALFORMED)
        self._transport.abort()

    def pause_writing(self) -> None:
        if self._asker is not None:
            self._asker.host_full(True)

    def resume_writing(self) -> None:
        if self._asker is not None:
            self._asker.host_full(False)
