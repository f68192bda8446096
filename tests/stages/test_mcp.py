"""``nsharness mcp`` as a client starts it: a real process, a real sandbox, the SDK's own client."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import pytest
from mcp import ClientSession, StdioServerParameters, types
from mcp.client.stdio import stdio_client

from nsharness.tools.calls import call
from tests.support.processes import alive, descendants, process
from tests.support.program import Program
from tests.support.waiting import DEADLINE, eventually
from tests.unit.tools.boxes import FakeBox

sandboxed = pytest.mark.kernel("userns", "procfs", "veth", "mount_setattr", "pidfd")


@pytest.fixture
def program(tmp_path: Path) -> Program:
    return Program(tmp_path)


class HostBox(FakeBox):
    """What must not be: the tools carried out on the host."""

    def read(self, path: str, limit: int = 1_000_000) -> bytes:
        return Path(path).read_bytes()[:limit]

    def write(self, path: str, data: bytes) -> None:
        Path(path).write_bytes(data)


def runs_inside(below: int, name: str) -> bool:
    return any(found.name == name for pid in descendants(below) if (found := process(pid)) and not found.dead)


def answer(result: types.CallToolResult) -> Mapping[str, Any]:
    (content,) = result.content
    assert isinstance(content, types.TextContent)
    found: dict[str, Any] = json.loads(content.text)
    assert result.isError == ("error" in found)
    return found


@sandboxed
async def test_a_client_uses_the_sandbox_and_nothing_else(program: Program, tmp_path: Path) -> None:
    """Calls, attacks on the host's files, a cancelled call, and the end, after which nothing is left."""
    secret = tmp_path / "secret"
    secret.write_text("the host's")
    made = tmp_path / "made"
    reading = [secret, Path("/tmp/link"), f"/proc/1/root{secret}", f"/usr/../..{secret}", "/proc/1/environ"]
    assert call(HostBox(), "read_file", {"path": str(secret)}).report == {"content": "the host's"}
    assert call(HostBox(), "write_file", {"path": str(made), "content": "x"}).report == {"written_bytes": 1}
    made.unlink()

    command, *arguments = program.argv(["mcp"])
    parameters = StdioServerParameters(command=command, args=arguments, env=program.environment, cwd="/")
    async with stdio_client(parameters) as streams, ClientSession(*streams) as session:
        assert (await session.initialize()).serverInfo.name == "nsharness"
        (server,) = [pid for pid in descendants(os.getpid()) if _command_line(pid)[-1:] == ["mcp"]]

        async def ask(name: str, **given: Any) -> Mapping[str, Any]:
            return answer(await session.call_tool(name, given))

        names = [tool.name for tool in (await session.list_tools()).tools]
        assert names == ["shell", "read_file", "write_file"]
        command = f"cd /usr; ln -s {secret} /tmp/link; echo out; echo err >&2; false"
        begun = await ask("shell", command=command)
        assert begun == {"exit_code": 1, "stdout": "out\n", "stderr": "err\n", "cwd": "/usr"}
        late = await ask("shell", command="sleep 1000", seconds=1)
        assert late["error"] == "the command was ended after 1 seconds"
        assert (await ask("shell", command="pwd"))["stdout"] == "/usr\n"
        long = await ask("shell", command="head -c 3000000 /dev/zero | tr '\\0' x")
        assert "3000000 bytes to stdout" in long["cut"]

        assert await ask("write_file", path="/tmp/-n", content="héllo\n") == {"written_bytes": 7}
        assert await ask("read_file", path="/tmp/-n") == {"content": "héllo\n"}
        for path in reading:
            assert (await ask("read_file", path=str(path))).keys() == {"error"}, path
        missing = await ask("write_file", path="/tmp/no/file", content="x" * 100_000)
        assert missing["error"].endswith("No such file or directory")
        for path in (made, f"/proc/1/root{made}", "/etc/passwd", "/proc/self/mem", "/usr/bin/x"):
            assert (await ask("write_file", path=str(path), content="x")).keys() == {"error"}, path
        assert not made.exists()

        number: int = session._request_id
        waiting = asyncio.ensure_future(session.call_tool("shell", {"command": "sleep 1000", "seconds": 600}))
        await asyncio.to_thread(eventually, lambda: runs_inside(server, "sleep"))
        params = types.CancelledNotificationParams(requestId=number)
        await session.send_notification(types.ClientNotification(types.CancelledNotification(params=params)))
        with pytest.raises(Exception, match="cancelled"):
            await waiting
        assert (await ask("shell", command="echo on"))["stdout"] == "on\n"
        assert not runs_inside(server, "sleep")
        below = descendants(server)
        assert len(below) > 3
    eventually(lambda: not any(map(alive, [server, *below])))


@sandboxed
@pytest.mark.parametrize("end", ["goes away", pytest.param("signal", marks=pytest.mark.slow)])
def test_when_the_client_goes_away_in_the_middle_of_a_call_all_is_gone(program: Program, end: str) -> None:
    arguments = {"command": "setsid sleep 1000 & sleep 1000", "seconds": 600}
    begin = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}
    messages: list[dict[str, Any]] = [
        {"id": 1, "method": "initialize", "params": begin},
        {"method": "notifications/initialized"},
        {"id": 2, "method": "tools/call", "params": {"name": "shell", "arguments": arguments}},
        # Its own output, which nobody else writes to: it would wait for half a minute.
        {
            "id": 3,
            "method": "tools/call",
            "params": {"name": "read_file", "arguments": {"path": "/proc/self/fd/1"}},
        },
    ]
    server = subprocess.Popen(
        program.argv(["mcp"]),
        env=program.environment,
        cwd="/",
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    stdin, stdout, stderr = _streams(server)
    with stdin, stdout, stderr:
        stdin.writelines(json.dumps({"jsonrpc": "2.0", **each}).encode() + b"\n" for each in messages)
        stdin.flush()
        eventually(lambda: runs_inside(server.pid, "sleep") and runs_inside(server.pid, "head"))
        below = descendants(server.pid)
        if end == "signal":  # The client goes on reading nothing and keeps both ends open.
            server.send_signal(signal.SIGTERM)
        else:
            stdin.close()
        assert server.wait(DEADLINE) == (143 if end == "signal" else 0)
        assert not any(map(alive, below))
        assert [json.loads(line)["id"] for line in stdout] == [1]
        assert stderr.read() == b""


def test_without_the_extra_there_is_one_line_with_the_remedy(program: Program) -> None:
    script = "import sys; sys.modules['mcp'] = None; from nsharness.cli import main; sys.exit(main(['mcp']))"
    done = subprocess.run(
        [sys.executable, "-I", "-c", script], capture_output=True, text=True, env=program.environment, cwd="/"
    )
    assert (done.returncode, done.stdout) == (125, "")
    assert done.stderr.startswith("nsharness: cannot serve MCP: ")
    assert done.stderr.endswith("(install nsharness with its extra: nsharness[mcp])\n")
    assert done.stderr.count("\n") == 1


def _command_line(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")[:-1]
    except OSError:
        return []


def _streams(server: subprocess.Popen[bytes]) -> tuple[IO[bytes], IO[bytes], IO[bytes]]:
    assert server.stdin is not None
    assert server.stdout is not None
    assert server.stderr is not None
    return server.stdin, server.stdout, server.stderr
