"""A tunnel: TLS to an allowed host that is passed through, once its first message has named the host.

Nothing is decrypted, so nothing else can be decided on. Both directions are independent of each other: that
one side does not read holds up what goes to it, and nothing else.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from nsharness.policy.authority import Authority
from nsharness_proxy import upstream
from nsharness_proxy.hello import ALERT, NOT_TLS, HelloError, server_name
from nsharness_proxy.judge import Judge
from nsharness_proxy.sandbox import next_number
from nsharness_proxy.upstream import UpstreamError


class Relay:
    """One connection that is passed through to ``leads``, which ``rule`` allows. The client's side gives it
    what comes, ``data`` first."""

    def __init__(
        self,
        judge: Judge,
        leads: Authority,
        rule: str,
        transport: asyncio.Transport,
        crash: Callable[[Exception], None],
    ) -> None:
        self._judge, self._leads, self._rule = judge, leads, rule
        self._client = transport
        self._crash = crash
        self._host: asyncio.Transport | None = None
        self._hello = b""
        self._opening: asyncio.Task[None] | None = None
        self._number = 0
        self._started = time.monotonic()
        self._sent = self._received = 0
        self._over = False
        self.ended = {"client": False, "host": False}

    @property
    def begun(self) -> bool:
        """Whether the client has named its host."""
        return self._over or self._opening is not None

    # The client's side.

    def data_received(self, data: bytes) -> None:
        """From the client."""
        if self._host is not None:
            self._sent += len(data)
            self._host.write(data)
            return
        self._hello += data
        if self._opening is not None:
            # It had better wait: its host is not there yet.
            self._client.pause_reading()
            return
        try:
            name = server_name(self._hello)
            if name is None:
                return
            if name != self._leads.host:
                raise HelloError("sni-mismatch")
        except HelloError as error:
            self._record("deny", reason=str(error))
            if str(error) != NOT_TLS:
                self._client.write(ALERT)
            self._over = True
            self._client.close()
            return
        self._opening = asyncio.ensure_future(self._try_to_open())

    async def _try_to_open(self) -> None:
        try:
            await self._open()
        except Exception as error:  # noqa: BLE001 - what cannot be recorded does not happen
            self._crash(error)

    async def _open(self) -> None:
        self._number, self._started = next_number(), time.monotonic()
        self._record("allow", reason="tunnel")
        leads = self._leads
        self._judge.approved.add((leads.host, leads.port))
        try:
            sock = await upstream.dial(self._judge.sandbox.policy, leads.host, leads.port)
        except UpstreamError as error:
            self._finish("error", reason=error.reason)
            return
        try:
            loop = asyncio.get_running_loop()
            self._host, _ = await loop.create_connection(lambda: _HostSide(self), sock=sock)
        except OSError:
            sock.close()
            self._finish("error", reason="upstream-unreachable")
            return
        hello, self._hello = self._hello, b""
        self._sent = len(hello)
        self._host.write(hello)
        if self.ended["client"]:
            self._host.write_eof()
        if not self._client.is_closing():
            self._client.resume_reading()

    def client_ended(self) -> None:
        """The client sends nothing further."""
        self._half("client", self._host)

    def client_lost(self) -> None:
        """The client is gone."""
        if self._opening is not None and self._host is None:
            self._opening.cancel()
            self._finish("error", reason="client-gone")
        elif self._host is not None:
            self._finish("response")

    def client_full(self, full: bool) -> None:
        """Whether the client takes no more for now."""
        if self._host is not None:
            _read(self._host, not full)

    # The host's side.

    def from_host(self, data: bytes) -> None:
        self._received += len(data)
        self._client.write(data)

    def host_ended(self) -> None:
        self._half("host", self._client)

    def host_lost(self) -> None:
        self._finish("response")

    def host_full(self, full: bool) -> None:
        _read(self._client, not full)

    def _half(self, side: str, other: asyncio.Transport | None) -> None:
        self.ended[side] = True
        if all(self.ended.values()):
            self._finish("response")
        elif other is not None and not other.is_closing():
            other.write_eof()

    def _finish(self, action: Any, **facts: Any) -> None:
        if self._over:
            return
        self._over = True
        seconds = round(time.monotonic() - self._started, 6)
        self._record(action, sent=self._sent, received=self._received, seconds=seconds, **facts)
        for transport in (self._client, self._host):
            if transport is not None:
                transport.close()

    def _record(self, action: Any, **facts: Any) -> None:
        self._judge.sandbox.record(
            action,
            self._judge.road,
            request=self._number,
            scheme="https",
            host=self._leads.host,
            port=self._leads.port,
            rule=self._rule,
            **facts,
        )

    def end(self) -> None:
        """End both sides at once."""
        for transport in (self._client, self._host):
            if transport is not None:
                transport.abort()


class _HostSide(asyncio.Protocol):
    """Passes everything on to the relay."""

    def __init__(self, relay: Relay) -> None:
        self._relay = relay

    def data_received(self, data: bytes) -> None:
        self._relay.from_host(data)

    def eof_received(self) -> bool:
        self._relay.host_ended()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self._relay.host_lost()

    def pause_writing(self) -> None:
        self._relay.host_full(True)

    def resume_writing(self) -> None:
        self._relay.host_full(False)


def _read(transport: asyncio.Transport, read: bool) -> None:
    if not transport.is_closing():
        transport.resume_reading() if read else transport.pause_reading()
