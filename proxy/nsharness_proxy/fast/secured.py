"""TLS on either side: a protocol towards the network, a transport towards the engine.

The library works on bytes in memory and is given a connection that was made elsewhere, with everything that
is to be verified. Records are opened only as far as somebody reads, and sealed only as fast as the network
takes them.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final, Protocol, cast

from OpenSSL import SSL

_RECORD: Final = 1 << 14
"""Bytes of a record at most (RFC 8446 section 5.1)."""
_RECORDS: Final = 16
"""How many are opened before anybody can say that it is enough."""
_SEALED: Final = 1 << 16
"""Bytes that are taken from the library at a time."""
_VERIFY: Final = "certificate verify failed"


class HandshakeError(Exception):
    """There is no TLS; ``text`` is what OpenSSL calls the reason, ``unverified`` says that it is the host's
    certificate."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text
        self.unverified = _VERIFY in text


class Upper(Protocol):
    """Whom the content is for."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None: ...
    def data_received(self, data: bytes) -> None: ...
    def eof_received(self) -> bool | None: ...
    def connection_lost(self, exc: Exception | None) -> None: ...
    def pause_writing(self) -> None: ...
    def resume_writing(self) -> None: ...


class Secured(asyncio.Transport, asyncio.Protocol):
    """One TLS connection. ``established`` is done when the handshake is; the upper protocol is told of its
    transport then, and of nothing if there never was any TLS."""

    def __init__(self, connection: SSL.Connection, upper: Upper) -> None:
        super().__init__()
        self._ssl = connection
        self._upper = upper
        self._lower: asyncio.Transport
        self._open = False
        self._paused = False
        self._ended = False
        self._farewell = False
        self.established: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @property
    def verified(self) -> bool:
        """Whether the other side's certificate was verified."""
        return bool(self._ssl.get_verified_chain())

    # From the network.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._lower = cast(asyncio.Transport, transport)
        self._handshake()

    def data_received(self, data: bytes) -> None:
        self._ssl.bio_write(data)
        if not self._open:
            self._handshake()
        if self._open:
            self._read()

    def _handshake(self) -> None:
        try:
            self._ssl.do_handshake()
        except SSL.WantReadError:
            self._flush()
            return
        except SSL.Error as error:
            self._flush()
            self._fail(_describe(error))
            return
        self._flush()
        self._open = True
        self._upper.connection_made(self)
        if not self.established.done():
            self.established.set_result(None)

    def _fail(self, text: str) -> None:
        if not self.established.done():
            self.established.set_exception(HandshakeError(text))
        self._lower.close()

    def _read(self) -> None:
        more = True
        while more and self._is_read():
            records: list[bytes] = []
            broken = False
            try:
                while len(records) < _RECORDS:
                    records.append(self._ssl.recv(_RECORD))
            except SSL.WantReadError:
                more = False
            except SSL.ZeroReturnError:
                more, self._farewell = False, True
            except SSL.Error:
                # Damaged, or renegotiated: there is nobody to tell it to.
                more, broken = False, True
            if records:
                self._upper.data_received(records[0] if len(records) == 1 else b"".join(records))
            if broken:
                self.abort()
            elif self._farewell and self._is_read():
                self._end()
        self._flush()

    def _is_read(self) -> bool:
        return not self._paused and not self._ended

    def _end(self) -> None:
        self._ended = True
        if not self._upper.eof_received():
            self.close()

    def eof_received(self) -> bool | None:
        if not self._open:
            self._fail("the other side has ended the connection")
        elif not self._ended:
            # Without a farewell (RFC 8446 section 6.1): nobody knows whether more was to come.
            self._ended = True
            self._upper.connection_lost(ConnectionResetError())
            self._lower.close()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._open:
            if not self.established.done():
                self.established.set_exception(HandshakeError("the connection was lost"))
            return
        self._ended = True
        self._upper.connection_lost(exc if self._farewell or exc else ConnectionResetError())

    def pause_writing(self) -> None:
        if self._open:
            self._upper.pause_writing()

    def resume_writing(self) -> None:
        if self._open:
            self._upper.resume_writing()

    # To the engine.

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        """Seal and send."""
        if not data or self._lower.is_closing():
            return
        try:
            self._ssl.sendall(bytes(data))
        except SSL.Error:
            self.abort()
            return
        self._flush()

    def _flush(self) -> None:
        pieces: list[bytes] = []
        try:
            # Whatever is shorter was the last: to ask once more would raise an exception for every message.
            while not pieces or len(pieces[-1]) == _SEALED:
                pieces.append(self._ssl.bio_read(_SEALED))
        except SSL.WantReadError:
            pass
        if pieces and not self._lower.is_closing():
            self._lower.write(pieces[0] if len(pieces) == 1 else b"".join(pieces))

    def close(self) -> None:
        """Say that nothing further comes, and end the connection."""
        if self._lower.is_closing():
            return
        try:
            self._ssl.shutdown()
        except SSL.Error:
            self._lower.close()
            return
        self._flush()
        self._lower.close()

    def cut(self) -> None:
        """End the connection without a farewell: the other side is to know that something is missing."""
        self._ended = True
        self._flush()
        self._lower.close()

    def abort(self) -> None:
        """End it at once."""
        self._ended = True
        self._lower.abort()

    def is_closing(self) -> bool:
        """Whether it is ending, or has."""
        return self._ended or self._lower.is_closing()

    def pause_reading(self) -> None:
        """Give nothing further for now."""
        self._paused = True
        self._lower.pause_reading()

    def resume_reading(self) -> None:
        """Give again, what waits first."""
        self._paused = False
        self._lower.resume_reading()
        asyncio.get_running_loop().call_soon(self._read)

    def can_write_eof(self) -> bool:
        """Never: TLS has no halves that everybody respects."""
        return False

    def get_write_buffer_size(self) -> int:
        """Bytes that wait for the network."""
        return self._lower.get_write_buffer_size()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """What is known of the connection below."""
        return self._lower.get_extra_info(name, default)

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Give the content to somebody else from now on."""
        self._upper = cast(Upper, protocol)

    def get_protocol(self) -> asyncio.BaseProtocol:
        """Whom the content is for."""
        return cast(asyncio.BaseProtocol, self._upper)


def _describe(error: SSL.Error) -> str:
    reasons = error.args[0] if error.args else ()
    if isinstance(reasons, list):
        return ", ".join(str(reason[2]) for reason in reasons if len(reason) > 2)
    return str(error)
