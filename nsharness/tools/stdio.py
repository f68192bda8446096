"""The standard streams of an MCP server: one JSON-RPC message a line (MCP, transports, stdio).

Both are read and written by threads that nobody waits for at the end: neither a client that sends nothing nor
one that reads nothing holds the process. At most ``MAX_LINE`` bytes of a message are kept.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import queue
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from dataclasses import dataclass
from typing import Any, Final

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from mcp.shared.message import SessionMessage
from mcp.types import INVALID_REQUEST, ErrorData, JSONRPCError, JSONRPCMessage

from nsharness.errors import NsharnessError

MAX_LINE: Final = 64 * 1024 * 1024
_LAST_WORDS: Final = 1.0  # Seconds that a client has to take the last answers, when it has closed its side.

Incoming = MemoryObjectSendStream[SessionMessage | Exception]
Streams = tuple[MemoryObjectReceiveStream[SessionMessage | Exception], MemoryObjectSendStream[SessionMessage]]


@dataclass(frozen=True, slots=True)
class Channel:
    """Where the protocol is read from and written to."""

    reading: int
    writing: int


@contextlib.asynccontextmanager
async def connected(channel: Channel) -> AsyncIterator[Streams]:
    """Within the block the streams are the channel's; the server's ends with the client's input, the block is
    cancelled when the client reads no more. ``NsharnessError`` after a message that is too long."""
    incoming, read = anyio.create_memory_object_stream[SessionMessage | Exception](0)
    write, outgoing = anyio.create_memory_object_stream[SessionMessage](0)
    errors: list[NsharnessError] = []
    loop = asyncio.get_running_loop()
    refusals = write.clone()

    async def hand_over(line: bytes) -> None:
        message, refusal = parsed(line)
        if refusal is not None:
            await refusals.send(refusal)
        else:
            await incoming.send(message)

    async def end(error: NsharnessError | None) -> None:
        if error is not None:
            errors.append(error)
        incoming.close()
        refusals.close()

    _start("nsharness-stdin", lambda: _read(channel.reading, loop, hand_over, end))
    lines: queue.SimpleQueue[tuple[bytes, asyncio.Future[None]]] = queue.SimpleQueue()
    _start("nsharness-stdout", lambda: _write(channel.writing, loop, lines))

    async with incoming, refusals, anyio.create_task_group() as group:

        async def send() -> None:
            async with outgoing:
                async for message in outgoing:
                    text = message.message.model_dump_json(by_alias=True, exclude_none=True)
                    written: asyncio.Future[None] = loop.create_future()
                    lines.put((text.encode() + b"\n", written))
                    try:
                        await written
                    except OSError:
                        group.cancel_scope.cancel()
                        return

        group.start_soon(send)
        yield read, write
        # The last one that could be sent to: what has been sent is written, then the other task ends.
        refusals.close()
        group.cancel_scope.deadline = anyio.current_time() + _LAST_WORDS
    if errors:
        raise errors[0]


def parsed(line: bytes) -> tuple[SessionMessage | Exception, SessionMessage | None]:
    """A line's message, or what is wrong; and in the second place the answer to a request that is none, when
    its id can be found. What was in the line is not repeated."""
    wrong = "this is no JSON-RPC message that can be taken"
    try:
        return SessionMessage(JSONRPCMessage.model_validate_json(line)), None
    except ValueError:
        pass
    with contextlib.suppress(ValueError, RecursionError):
        found = json.loads(line)
        number = found.get("id") if isinstance(found, dict) else None
        if "method" in found and isinstance(number, int | str) and not isinstance(number, bool):
            error = ErrorData(code=INVALID_REQUEST, message=wrong)
            answer = JSONRPCError(jsonrpc="2.0", id=_encodable(number), error=error)
            return ValueError(wrong), SessionMessage(JSONRPCMessage(answer))
    return ValueError(wrong), None


def _encodable(number: int | str) -> int | str:
    return number if isinstance(number, int) else number.encode(errors="replace").decode()


class Lines:
    """Bytes in, lines out, without their ends and those that are blank."""

    def __init__(self, limit: int = MAX_LINE) -> None:
        self._limit = limit
        self._parts: list[bytes] = []
        self._size = 0

    def add(self, data: bytes) -> Iterator[bytes]:
        """The lines that ``data`` completes. ``NsharnessError`` for one that is too long."""
        *ended, rest = data.split(b"\n")
        for part in ended:
            self._keep(part)
            line = b"".join(self._parts)
            self._parts, self._size = [], 0
            if line.strip():
                yield line
        self._keep(rest)

    def _keep(self, part: bytes) -> None:
        self._size += len(part)
        if self._size > self._limit:
            raise NsharnessError(
                "the MCP client cannot be served any longer",
                why=f"it sent a message of more than {self._limit} bytes",
            )
        if part:
            self._parts.append(part)


def _start(name: str, target: Callable[[], None]) -> None:
    threading.Thread(target=target, name=name, daemon=True).start()


def _read(
    descriptor: int,
    loop: asyncio.AbstractEventLoop,
    hand_over: Callable[[bytes], Coroutine[Any, Any, None]],
    end: Callable[[NsharnessError | None], Coroutine[Any, Any, None]],
) -> None:
    """In a thread: every line to ``hand_over``, one after the other, then ``end``."""

    def in_loop(coroutine: Coroutine[Any, Any, None]) -> bool:
        try:
            asyncio.run_coroutine_threadsafe(coroutine, loop).result()
        except (RuntimeError, anyio.BrokenResourceError, anyio.ClosedResourceError):
            coroutine.close()  # The server has ended.
            return False
        return True

    lines = Lines()
    error = None
    try:
        while data := os.read(descriptor, 1 << 16):
            for line in lines.add(data):
                if not in_loop(hand_over(line)):
                    return
    except NsharnessError as too_long:
        error = too_long
    except OSError:
        pass  # Nothing more comes, as at the end.
    in_loop(end(error))


def _write(
    descriptor: int,
    loop: asyncio.AbstractEventLoop,
    lines: queue.SimpleQueue[tuple[bytes, asyncio.Future[None]]],
) -> None:
    """In a thread: each line as a whole, and its future told."""

    def tell(written: asyncio.Future[None], error: OSError | None) -> None:
        if not written.done():
            written.set_result(None) if error is None else written.set_exception(error)

    while True:
        line, written = lines.get()
        error: OSError | None = None
        view = memoryview(line)
        try:
            while view:
                view = view[os.write(descriptor, view) :]
        except OSError as gone:
            error = gone
        try:
            loop.call_soon_threadsafe(tell, written, error)
        except RuntimeError:
            return  # The loop has ended.
