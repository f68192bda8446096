"""The tools as a server of the Model Context Protocol, with the protocol's own SDK.

Calls run in threads. Those of the shell wait for each other here and not in a thread, so that one that is
given up while it waits holds nothing; reading and writing files goes on meanwhile.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any, Final

import anyio
import anyio.from_thread
import anyio.lowlevel
import anyio.to_thread
from mcp import types
from mcp.server.lowlevel import Server

from nsharness import __version__
from nsharness.errors import NsharnessError
from nsharness.tools.calls import Answer, Box, call, failed
from nsharness.tools.definitions import TOOLS
from nsharness.tools.formats import to_json
from nsharness.tools.stdio import Channel, connected

MAX_RUNNING: Final = 8
"""Calls that run at the same time; others wait."""
MAX_CALLS: Final = 64
"""Calls that run or wait; further ones are refused."""

OneCall = Callable[[], tuple[Box, Callable[[], None]]]
"""Gives what one call works in, and a function that ends the call early, from any thread."""

_log = logging.getLogger("nsharness.mcp")


def serve(one_call: OneCall, channel: Channel) -> None:
    """Serve one client until it goes away. The event loop has a thread of its own: an exception of a signal's
    handler in the calling one ends the serving, and all calls. ``NsharnessError`` when it cannot go on."""
    with anyio.from_thread.start_blocking_portal() as portal:
        try:
            portal.start_task_soon(_session, tools_server(one_call), channel).result()
        except Exception as error:
            if isinstance(error, NsharnessError):
                raise
            _log.exception("the server failed")
            raise NsharnessError("the MCP server cannot go on", why=type(error).__name__) from None


async def _session(server: Server[Any, Any], channel: Channel) -> None:
    async with connected(channel) as (read, write):
        await server.run(read, write, server.create_initialization_options())


def tools_server(one_call: OneCall) -> Server[Any, Any]:
    """A server that has the tools, for a transport of the SDK's."""
    server: Server[Any, Any] = Server("nsharness", version=__version__)
    calls = _Calls(one_call)

    async def listed(_: types.ListToolsRequest) -> types.ServerResult:
        return types.ServerResult(types.ListToolsResult(tools=_definitions()))

    async def called(request: types.CallToolRequest) -> types.ServerResult:
        answer = await calls.carry_out(request.params.name, request.params.arguments or {})
        content = types.TextContent(type="text", text=to_json(answer))
        return types.ServerResult(types.CallToolResult(content=[content], isError=answer.is_error))

    server.request_handlers[types.ListToolsRequest] = listed
    server.request_handlers[types.CallToolRequest] = called
    return server


def _definitions() -> list[types.Tool]:
    hints = {"read_file": types.ToolAnnotations(readOnlyHint=True)}
    return [
        types.Tool(
            name=tool.name,
            description=tool.description,
            inputSchema=tool.schema(),
            annotations=hints.get(tool.name),
        )
        for tool in TOOLS
    ]


class _Calls:
    """The calls of one client."""

    def __init__(self, one_call: OneCall) -> None:
        self._one_call = one_call
        self._turn = anyio.Lock()
        self._threads = anyio.CapacityLimiter(MAX_RUNNING)
        self._number = 0

    async def carry_out(self, name: str, arguments: Mapping[str, Any]) -> Answer:
        if self._number >= MAX_CALLS:
            return failed(f"{MAX_CALLS} calls are being carried out already: wait for one to end")
        self._number += 1
        try:
            if name != "shell":
                return await self._in_thread(name, arguments)
            async with self._turn:
                return await self._in_thread(name, arguments)
        finally:
            self._number -= 1

    async def _in_thread(self, name: str, arguments: Mapping[str, Any]) -> Answer:
        box, end_early = self._one_call()
        answers: list[Answer] = []
        async with anyio.create_task_group() as group:
            group.start_soon(_when_cancelled, end_early)
            # Not abandoned when it is cancelled, but waited for, while the other task makes it end.
            answers.append(
                await anyio.to_thread.run_sync(_carry_out, box, name, arguments, limiter=self._threads)
            )
            group.cancel_scope.cancel()
        # The group's own end hides that the call was cancelled, and then nobody may answer it any more.
        await anyio.lowlevel.checkpoint_if_cancelled()
        return answers[0]


async def _when_cancelled(act: Callable[[], None]) -> None:
    """Also when the call has ended by itself, when it does nothing."""
    try:
        await anyio.sleep_forever()
    finally:
        act()


def _carry_out(box: Box, name: str, arguments: Mapping[str, Any]) -> Answer:
    try:
        return call(box, name, arguments)
    except Exception as error:  # noqa: BLE001 - no client is shown a traceback
        # A bug. The client is not told what it is about: the message may have anything in it.
        _log.exception("a tool call failed")
        return failed(f"nsharness could not do it: {type(error).__name__}")
