"""No probe, no run: a sandbox is served after its own guard has been seen to refuse what nobody may ask for.

The request goes through the same layers as a client's, over a socket pair. Whatever policy says, its names
disagree, so that anything but the refusal means that something in between does not work as it must.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Final

from nsharness.audit.event import AuditEvent
from nsharness_proxy.claims import Origin
from nsharness_proxy.fast.client import Client
from nsharness_proxy.fast.hosts import Hosts
from nsharness_proxy.fast.service import Service
from nsharness_proxy.judge import Judge
from nsharness_proxy.refusal import REASON_HEADER
from nsharness_proxy.report import Report
from nsharness_proxy.sandbox import Sandbox

if TYPE_CHECKING:
    from nsharness_proxy.mitm import Mitm

_SECONDS: Final = 5.0
_MAX_ANSWER: Final = 1 << 16
_REQUEST: Final = b"GET http://probe.invalid/ HTTP/1.1\r\nHost: other.invalid\r\nConnection: close\r\n\r\n"

Serve = Callable[[Sandbox, socket.socket], AbstractAsyncContextManager[Judge]]
"""Serves one connection of a sandbox within the block; gives who decides on it."""


class ProbeError(ValueError):
    """The refusal was not seen."""


async def see_denial(sandbox: Sandbox, serve: Serve) -> None:
    """Return when a request was refused as it must be; ``ProbeError`` when it was not. Nothing of it is
    recorded, and nothing is connected to."""
    seen: list[AuditEvent] = []
    # With everything of the sandbox but its log, which tells of its workload.
    probed = dataclasses.replace(sandbox, write=seen.append)
    ours, theirs = socket.socketpair()
    with ours:
        ours.setblocking(False)
        async with serve(probed, theirs) as judge:
            try:
                async with asyncio.timeout(_SECONDS):
                    answer = await _ask(ours)
            except (OSError, TimeoutError):
                answer = b""
    status, reason = (b"407", b"authentication") if sandbox.bearer else (b"421", b"misdirected")
    head = answer.partition(b"\r\n\r\n")[0].lower()
    refused = head.startswith(b"http/1.1 " + status) and REASON_HEADER.encode() in head and reason in head
    if not refused or [event.action for event in seen] != ["deny"] or judge.approved:
        raise ProbeError("the proxy did not refuse its own denied request, so it serves nothing")


def _refuse(transport: asyncio.Transport, data: bytes, judge: Judge, sni: str | None, *, tls: bool) -> None:
    """Nothing of the probe is for anybody else."""
    transport.abort()


def serve_fast(report: Report) -> Serve:
    """By the engine of our own."""

    @contextlib.asynccontextmanager
    async def serve(sandbox: Sandbox, sock: socket.socket) -> AsyncIterator[Judge]:
        service = Service(sandbox, "explicit", sock, Hosts(sandbox), report, _refuse, Client)
        loop = asyncio.get_running_loop()
        _, client = await loop.connect_accepted_socket(lambda: Client(service), sock)
        try:
            yield client.judge
        finally:
            client.end()

    return serve


def serve_mitm(mitm: Mitm) -> Serve:
    """By mitmproxy."""

    @contextlib.asynccontextmanager
    async def serve(sandbox: Sandbox, sock: socket.socket) -> AsyncIterator[Judge]:
        reader, writer = await asyncio.open_connection(sock=sock)
        connection = mitm.connection(reader, writer, Judge(sandbox, Origin("explicit", "127.0.0.1")))
        serving = asyncio.ensure_future(connection.handle_client())
        try:
            yield connection.judge
        finally:
            connection.end()
            await serving
            writer.close()

    return serve


async def _ask(sock: socket.socket) -> bytes:
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(sock, _REQUEST)
    answer = b""
    while b"\r\n\r\n" not in answer and len(answer) < _MAX_ANSWER:
        piece = await loop.sock_recv(sock, _MAX_ANSWER)
        if not piece:
            break
        answer += piece
    return answer
