"""The MCP server without a sandbox or a process: its lines, and its calls through the SDK's own client."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mcp import ClientSession, types
from mcp.shared.memory import create_connected_server_and_client_session

from nsharness.errors import NsharnessError
from nsharness.tools.calls import Box
from nsharness.tools.serving import MAX_CALLS, MAX_RUNNING, serve, tools_server
from nsharness.tools.stdio import Channel, Lines, parsed
from tests.support.waiting import DEADLINE, readable
from tests.unit.agent.fakes import FakeShell, Result
from tests.unit.tools.boxes import FakeBox, Held

INITIALIZE = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {
        "protocolVersion": "2025-06-18",
        "capabilities": {},
        "clientInfo": {"name": "t", "version": "1"},
    },
}


@contextlib.asynccontextmanager
async def client(one_call: Callable[[], tuple[Box, Callable[[], None]]]) -> AsyncIterator[ClientSession]:
    async with create_connected_server_and_client_session(tools_server(one_call)) as session:
        yield session


async def cancel(session: ClientSession, number: int) -> None:
    params = types.CancelledNotificationParams(requestId=number)
    await session.send_notification(types.ClientNotification(types.CancelledNotification(params=params)))


# --- lines --------------------------------------------------------------------------------------------------


@given(st.lists(st.binary(max_size=12)), st.lists(st.integers(1, 9), min_size=1))
def test_lines_are_the_same_however_they_arrive(parts: list[bytes], sizes: list[int]) -> None:
    data = b"\n".join([*parts, b""])
    lines, step = Lines(), 0
    found: list[bytes] = []
    while data:
        size = sizes[step % len(sizes)]
        found += lines.add(data[:size])
        data, step = data[size:], step + 1
    expected = [line for part in parts for line in part.split(b"\n") if line.strip()]
    assert found == expected


def test_a_line_that_never_ends_is_an_error_before_it_fills_the_memory() -> None:
    lines = Lines(100)
    assert list(lines.add(b"x" * 100 + b"\n" + b"y" * 60)) == [b"x" * 100]
    with pytest.raises(NsharnessError, match="more than 100 bytes"):
        list(lines.add(b"y" * 41))


@pytest.mark.parametrize(
    ("line", "number"),
    [
        (b'{"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": {"x": "\\ud800"}}', 7),
        (b'{"id": "a", "method": "tools/call"}', "a"),
        (b'{"id": "\\ud800", "method": "x"}', "?"),
        (b'{"jsonrpc": "2.0", "id": 7, "method": 3}', 7),
        (b'{"jsonrpc": "2.0", "id": 7}', None),
        (b"[" * 10**5, None),
        (b'"id method"', None),
        (b"\xff\xfe", None),
        (b"1" * 10**5, None),
    ],
    ids=range(9),
)
def test_a_message_that_is_none_is_answered_where_that_is_possible(line: bytes, number: object) -> None:
    message, answer = parsed(line)
    assert isinstance(message, ValueError)
    assert len(str(message)) < 100
    if number is None:
        assert answer is None
        return
    assert answer is not None
    assert json.loads(answer.message.model_dump_json())["id"] == number


# --- calls --------------------------------------------------------------------------------------------------


async def test_a_client_sees_the_tools_and_results() -> None:
    box = FakeBox(FakeShell(lambda command: Result(command, 3)))
    async with client(box.one_call) as session:
        listed = (await session.list_tools()).tools
        assert [tool.name for tool in listed] == ["shell", "read_file", "write_file"]
        good = await session.call_tool("shell", {"command": "make"})
        bad = await session.call_tool("shell", {"command": ["make"]})
    assert isinstance(good.content[0], types.TextContent)
    assert json.loads(good.content[0].text)["exit_code"] == 3
    assert (good.isError, bad.isError) == (False, True)


async def test_a_bug_is_a_result_without_what_it_is_about() -> None:
    box = FakeBox(missing=KeyError("/home/somebody/private"))
    async with client(box.one_call) as session:
        result = await session.call_tool("read_file", {"path": "x"})
    assert result.isError
    assert isinstance(result.content[0], types.TextContent)
    assert json.loads(result.content[0].text) == {"error": "nsharness could not do it: KeyError"}


async def test_commands_take_turns_and_a_file_is_read_meanwhile() -> None:
    held = Held()

    def run(command: str) -> Result:
        held.hold()
        return Result(command)

    box = FakeBox(FakeShell(run), files={"a": b"x"})
    async with client(box.one_call) as session:
        calls = [asyncio.ensure_future(session.call_tool("shell", {"command": str(n)})) for n in range(3)]
        assert await asyncio.to_thread(held.begun.acquire, timeout=DEADLINE)
        assert not (await session.call_tool("read_file", {"path": "a"})).isError
        held.over.set()
        assert not any(result.isError for result in await asyncio.gather(*calls))
    assert (held.most, box.shell.commands) == (1, ["0", "1", "2"])


async def test_the_number_of_calls_is_bounded() -> None:
    held = Held()

    class Slow(FakeBox):
        def read(self, path: str, limit: int = 1_000_000) -> bytes:
            held.hold()
            return b""

    async with client(Slow().one_call) as session:
        calls = [
            asyncio.ensure_future(session.call_tool("read_file", {"path": "a"})) for _ in range(MAX_CALLS + 1)
        ]
        (done, _) = await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
        (refused,) = [call.result() for call in done]
        assert refused.isError
        assert "wait for one to end" in str(refused.content)
        held.over.set()
        results = await asyncio.gather(*calls)
    assert sum(result.isError for result in results) == 1
    assert held.most <= MAX_RUNNING


async def test_a_cancelled_call_is_ended_and_one_that_waits_never_begins() -> None:
    begun = threading.Semaphore(0)
    ended: list[threading.Event] = []

    def one_call() -> tuple[Box, Callable[[], None]]:
        mine = threading.Event()
        ended.append(mine)

        def run(command: str) -> Result:
            begun.release()
            assert command == "last" or mine.wait(DEADLINE)
            return Result(command)

        return FakeBox(FakeShell(run)), mine.set

    async with client(one_call) as session:
        await session.list_tools()
        number: int = session._request_id
        calls = [
            asyncio.ensure_future(session.call_tool("shell", {"command": command}))
            for command in ("first", "never", "last")
        ]
        assert await asyncio.to_thread(begun.acquire, timeout=DEADLINE)
        await cancel(session, number + 1)
        await cancel(session, number)
        results = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(result).__name__ for result in results] == ["McpError", "McpError", "CallToolResult"]
    assert len(ended) == 2


# --- the streams --------------------------------------------------------------------------------------------


@pytest.fixture
def pipes() -> Any:
    """Input and output as (the server's channel, the client's writing end, the client's reading end)."""
    (theirs, writing), (reading, ours) = os.pipe(), os.pipe()
    kept = {theirs, writing, reading, ours}
    yield Channel(theirs, ours), writing, reading, kept
    for descriptor in kept:
        os.close(descriptor)


def test_a_client_that_goes_away_ends_its_call(pipes: Any) -> None:
    channel, writing, reading, kept = pipes
    begun, ended = threading.Event(), threading.Event()

    def run(_: str) -> Result:
        begun.set()
        assert ended.wait(DEADLINE)
        return Result()

    call = {"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": {}}
    call["params"] = {"name": "shell", "arguments": {"command": "sleep 1000"}}
    messages = [INITIALIZE, {"jsonrpc": "2.0", "method": "notifications/initialized"}, call]
    box = FakeBox(FakeShell(run))
    server = threading.Thread(target=serve, args=(lambda: (box, ended.set), channel))
    server.start()
    os.write(writing, "".join(json.dumps(each) + "\n" for each in messages).encode())
    assert begun.wait(DEADLINE)
    os.close(writing)
    kept.remove(writing)
    server.join(DEADLINE)
    assert not server.is_alive()
    assert ended.is_set()
    assert readable(reading)
    assert (
        json.loads(os.read(reading, 1 << 16).splitlines()[0])["result"]["serverInfo"]["name"] == "nsharness"
    )


def test_a_client_that_reads_no_more_ends_the_serving(pipes: Any) -> None:
    channel, writing, reading, kept = pipes
    os.close(reading)
    kept.remove(reading)
    server = threading.Thread(target=serve, args=(FakeBox().one_call, channel))
    server.start()
    os.write(writing, json.dumps(INITIALIZE).encode() + b"\n")
    server.join(DEADLINE)
    assert not server.is_alive()


def test_what_is_no_message_is_passed_over(pipes: Any) -> None:
    channel, writing, reading, kept = pipes
    server = threading.Thread(target=serve, args=(FakeBox().one_call, channel))
    server.start()
    os.write(writing, b"GET / HTTP/1.1\n\n\xff\n" + json.dumps(INITIALIZE).encode() + b"\n")
    found = b""
    while b"serverInfo" not in found:
        assert readable(reading)
        found += os.read(reading, 1 << 16)
    os.close(writing)
    kept.remove(writing)
    server.join(DEADLINE)
    assert not server.is_alive()
    assert all("jsonrpc" in json.loads(line) for line in found.splitlines())
