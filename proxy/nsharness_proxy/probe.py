"""No probe, no run: a sandbox is served after its own guard has been seen to refuse what nobody may ask for.

The request goes through the same layers as a client's, over a socket pair. Whatever policy says, its names
disagree, so that anything but the refusal means that something in between does not work as it must.
"""

from __future__ import annotations

import asyncio
import dataclasses
import socket
from typing import Final

from mitmproxy import options

from nsharness.audit.event import AuditEvent
from nsharness_proxy.claims import Origin
from nsharness_proxy.connection import Connection
from nsharness_proxy.guard import Guard
from nsharness_proxy.listener import SandboxMode
from nsharness_proxy.refusal import REASON_HEADER
from nsharness_proxy.report import Report
from nsharness_proxy.sandbox import Sandbox

_SECONDS: Final = 5.0
_MAX_ANSWER: Final = 1 << 16
_REQUEST: Final = b"GET http://probe.invalid/ HTTP/1.1\r\nHost: other.invalid\r\nConnection: close\r\n\r\n"


class ProbeError(ValueError):
    """The refusal was not seen."""


async def see_denial(sandbox: Sandbox, settings: options.Options, report: Report) -> None:
    """Return when a request was refused as it must be; ``ProbeError`` when it was not. Nothing of it is
    recorded, and nothing is connected to."""
    seen: list[AuditEvent] = []
    # With everything of the sandbox but its log, which tells of its workload.
    guard = Guard(dataclasses.replace(sandbox, write=seen.append), Origin("explicit", "127.0.0.1"))
    ours, theirs = socket.socketpair()
    with ours:
        ours.setblocking(False)
        reader, writer = await asyncio.open_connection(sock=theirs)
        mode = SandboxMode(f"sandbox:{sandbox.id}:probe", sandbox.id, None, None)
        connection = Connection(reader, writer, settings, mode, guard, report)
        serving = asyncio.ensure_future(connection.handle_client())
        try:
            async with asyncio.timeout(_SECONDS):
                answer = await _ask(ours)
        except (OSError, TimeoutError):
            answer = b""
        finally:
            connection.end()
            ours.close()
            await serving
            writer.close()
    status, reason = (b"407", b"authentication") if sandbox.bearer else (b"421", b"misdirected")
    head = answer.partition(b"\r\n\r\n")[0].lower()
    refused = head.startswith(b"http/1.1 " + status) and REASON_HEADER.encode() in head and reason in head
    if not refused or [event.action for event in seen] != ["deny"] or guard.approved:
        raise ProbeError("the proxy did not refuse its own denied request, so it serves nothing")


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
