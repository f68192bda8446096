"""What a client's connection begins with: whether it may stay, TLS, a tunnel, or another engine.

The state is the method that reads next. Of what has come and cannot be read yet no more is kept than
``MAX_PENDING``: then nothing further is read, and the client has to wait.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import Final, cast

from nsharness_proxy import patience
from nsharness_proxy.bodies import BodyRefusedError
from nsharness_proxy.decision import Decision
from nsharness_proxy.fast.framing import BodyError
from nsharness_proxy.fast.host import Host
from nsharness_proxy.fast.relay import Relay
from nsharness_proxy.fast.secured import HandshakeError, Secured
from nsharness_proxy.fast.service import Service
from nsharness_proxy.hello import HelloError, client_hello, starts_tls
from nsharness_proxy.judge import Judge
from nsharness_proxy.refusal import Refused
from nsharness_proxy.tls import HTTP2, PROTOCOL

MAX_PENDING: Final = 256 * 1024
"""Bytes from a client that may wait before no more are read."""
IDLE_SECONDS: Final = 600.0
"""How long nothing may come or go."""
_STEPS: Final = 32
"""Requests, or pieces of one, that are read in one turn of the event loop."""
_LINGER_SECONDS: Final = 2.0
_END_SECONDS: Final = 5.0

# The beginning of a request line (RFC 9112 section 3), as far as it has come.
_REQUEST_START: Final = re.compile(rb"[A-Za-z][A-Za-z-]{0,23}( |$)")
_TLS_HANDSHAKE: Final = 0x16


class Front(asyncio.Protocol):
    """One client, from its first byte to its last; its requests are for a subclass."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._transport: asyncio.Transport
        self.judge: Judge
        self._tls = False
        self._sni: str | None = None
        self._relay: Relay | None = None
        self._buffer = b""
        self._read: Callable[[], bool] = self._first
        self.deadline = service.now + IDLE_SECONDS
        self.owes_since: float | None = asyncio.get_running_loop().time()
        """Since when the client owes a request, or the rest of one's head; None when it owes nothing."""
        self._held_back = False
        self._host_is_full = False
        self._client_is_full = False
        # Of the request at hand:
        self._made: Decision | None = None
        self._host: Host | None = None
        self._opening: asyncio.Task[None] | None = None
        self._answered = False

    def _next_head(self) -> bool:
        """Read a request's head."""
        raise NotImplementedError

    def _stopped(self, stopped: BodyRefusedError) -> bool:
        """The body of the request must not go on."""
        raise NotImplementedError

    def _no_body(self) -> None:
        """What came as a body is none."""
        raise NotImplementedError

    # What the event loop says.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Those of uvloop are no instances of it.
        transport = cast(asyncio.Transport, transport)
        if self._tls:
            self._transport = transport
            self._read = self._inside
            return
        if not self._service.add(self):
            transport.abort()
            return
        self._transport = transport
        address = transport.get_extra_info("sockname")
        self.judge = self._service.judge(address[0] if isinstance(address, tuple) else "127.0.0.1")
        try:
            stays = self.judge.arrives()
        except Exception as error:  # noqa: BLE001 - what cannot be recorded does not happen
            self._crash(error)
            return
        if not stays:
            self._leave()
        elif self.judge.origin.entrance == "explicit":
            self._read = self._next_head

    def data_received(self, data: bytes) -> None:
        self._buffer = self._buffer + data if self._buffer else data
        self._advance()

    def _advance(self) -> None:
        try:
            for _ in range(_STEPS):
                if not self._buffer or not self._step():
                    break
            else:
                # Others have their turn before more of the same is read.
                asyncio.get_running_loop().call_soon(self._advance)
        except Exception as error:  # noqa: BLE001 - whatever it is, the request must not go on
            self._crash(error)
        self._gate()

    def _step(self) -> bool:
        """Read something of what has come; whether there could be more to read."""
        try:
            return self._read()
        except BodyRefusedError as stopped:
            return self._stopped(stopped)
        except BodyError:
            self._no_body()
            return False

    def _crash(self, error: Exception) -> None:
        self._service.report.failure("the guard failed", error)
        self.end()

    def _gate(self) -> None:
        """Read from the client, or not."""
        held = self._host_is_full or self._client_is_full or len(self._buffer) > MAX_PENDING
        if held is not self._held_back and self._relay is None and not self._transport.is_closing():
            self._held_back = held
            self._transport.pause_reading() if held else self._transport.resume_reading()

    def eof_received(self) -> bool:
        if self._relay is not None:
            self._relay.client_ended()
            return True
        self._gone()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._service.remove(self)
        if self._relay is not None:
            self._relay.client_lost()
        self._gone()

    def _gone(self) -> None:
        """Nobody waits for an answer any more."""
        self._read = self._nothing
        made, self._made = self._made, None
        if self._opening is not None:
            self._opening.cancel()
            self._opening = None
        if self._host is not None:
            self._host.close()
            self._host = None
        if made is not None and not self._answered:
            try:
                self.judge.end(made, "error", reason="client-gone")
            except OSError as error:
                self._service.report.failure("the guard failed", error)

    def pause_writing(self) -> None:
        self._client_is_full = True
        if self._relay is not None:
            self._relay.client_full(True)
        elif self._host is not None:
            self._host.pause()

    def resume_writing(self) -> None:
        self._client_is_full = False
        if self._relay is not None:
            self._relay.client_full(False)
            return
        if self._host is not None:
            self._host.resume()
        self._advance()

    def expire(self, now: float) -> None:
        """End it if it has been waited for too long."""
        if self.owes_since is not None and self.owes_since + patience.HEAD_SECONDS < now:
            try:
                self.judge.too_slow()
            except OSError as error:
                self._service.report.failure("the guard failed", error)
            self.end()
        elif self.deadline < now:
            self.end()

    def end(self) -> None:
        """End the connection at once, whatever it was doing."""
        if self._relay is not None:
            self._relay.end()
        self._transport.abort()
        self._gone()

    def end_outlived(self) -> None:
        """End a tunnel that policy no longer allows."""
        if self._relay is not None and self.judge.outlived():
            self.end()

    # What a connection begins with.

    def _first(self) -> bool:
        """TLS, or HTTP; anything else ends the connection."""
        data = self._buffer
        if data[0] == _TLS_HANDSHAKE:
            if len(data) < 3:
                return False
            if starts_tls(data):
                self._read = self._hello
                return True
        return self._inside()

    def _inside(self) -> bool:
        if not _REQUEST_START.match(self._buffer):
            self.judge.deny(self.judge.tunnel, Refused(400, "not-http"))
            self._leave()
            return False
        self._read = self._next_head
        return True

    def _hello(self) -> bool:
        """TLS is passed through, opened here, or opened by mitmproxy for a client that wants HTTP/2."""
        judge = self.judge
        if (way := judge.untouched()) is not None:
            self._relay = Relay(judge, *way, self._transport, self._crash)
            self._read = self._pass_on
            return True
        leads = judge.leads_to()
        try:
            hello = client_hello(self._buffer)
        except HelloError:
            hello, leads = None, None
        if leads is None:
            judge.handshake_failed("", None)
            self._leave()
            return False
        if hello is None:
            return False
        if hello.protocols and PROTOCOL not in hello.protocols and HTTP2 in hello.protocols:
            self._hand_over()
            return False
        self._sni, self._tls = hello.sni, True
        secured = Secured(self._service.sandbox.client_tls_http1.connection(leads.host), self)
        secured.established.add_done_callback(self._established)
        data, self._buffer = self._buffer, b""
        lower = self._transport
        lower.set_protocol(secured)
        self._transport = secured
        self._read = self._nothing
        secured.connection_made(lower)
        secured.data_received(data)
        return False

    def _established(self, done: asyncio.Future[None]) -> None:
        error = None if done.cancelled() else done.exception()
        if isinstance(error, HandshakeError):
            self._service.remove(self)
            if self._read == self._nothing:
                self.judge.handshake_failed(error.text, self._sni)
        self.deadline = self._service.now + IDLE_SECONDS

    def _pass_on(self) -> bool:
        assert self._relay is not None
        data, self._buffer = self._buffer, b""
        self.deadline = self._service.now + IDLE_SECONDS
        self._relay.data_received(data)
        if self._relay.begun:
            self.owes_since = None
        return False

    def _hand_over(self) -> None:
        """Let mitmproxy go on from here; to it, this is a new connection."""
        self._service.remove(self)
        self._read = self._nothing
        data, self._buffer = self._buffer, b""
        self._service.hand_over(self._transport, data, self.judge, self._sni, tls=self._tls)

    def _nothing(self) -> bool:
        """What comes now is not read."""
        self._buffer = b""
        return False

    # How it ends.

    def _leave(self) -> None:
        """Close, when what was written has been sent; who does not take it is not waited for long."""
        self._read = self._nothing
        self._transport.close()
        asyncio.get_running_loop().call_later(_END_SECONDS, self._transport.abort)

    def _break_off(self) -> None:
        """Close, so that the client sees that something is missing."""
        self._read = self._nothing
        if isinstance(self._transport, Secured):
            self._transport.cut()
        else:
            self._transport.close()
        asyncio.get_running_loop().call_later(_END_SECONDS, self._transport.abort)

    def _linger(self) -> None:
        """Close, but let the client read the answer first: what it still sends would reset the connection."""
        self._read = self._nothing
        self._buffer = b""
        if not self._transport.can_write_eof():
            self._leave()
            return
        self._transport.write_eof()
        self.deadline = self._service.now + _LINGER_SECONDS
