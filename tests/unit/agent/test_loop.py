"""Turns through the real loop of pydantic-ai, with shells and providers of our own."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from nsharness.agent import engine
from nsharness.agent.loop import Turn, check_model, run_turn
from nsharness.agent.skills import SkillFolder
from nsharness.agent.tools import Ran
from nsharness.errors import NsharnessError
from tests.unit.agent.fakes import FakeShell, Result

SKILL = """\
---
name: count
description: Count.
---
1. Say one.
   ```sh
   echo one
   ```
   Expect: a line that starts with `o`.
   Keep: the rest of that line as `REST`.
2. Say it again.
   ```sh
   echo "$REST"
   ```
"""


@pytest.fixture
def skills(tmp_path: Path) -> SkillFolder:
    (tmp_path / "count").mkdir()
    (tmp_path / "count" / "SKILL.md").write_text(SKILL)
    return SkillFolder(tmp_path)


def take(shell: FakeShell, skills: SkillFolder | None, **how: Any) -> Turn:
    how = {
        "model": "scripted",
        "allowed_tools": ("exec", "skill"),
        "prompt": "count",
        "system_prompt": "",
    } | how
    return run_turn(shell=shell, skills=skills, **how)


def test_the_scripted_model_follows_the_skill_through_the_real_loop(skills: SkillFolder) -> None:
    shell = FakeShell(lambda command: Result("one\n" if command == "echo one" else "ne\n"))
    turn = take(shell, skills)
    assert shell.commands == ["echo one", "REST=ne", 'echo "$REST"']
    assert turn == Turn(
        "I followed the skill `count` (2 commands). The last one printed:\nne",
        tuple(Ran(command, 0, timed_out=False) for command in shell.commands),
    )
    assert turn.succeeded


def test_a_failing_command_is_the_last_one(skills: SkillFolder) -> None:
    shell = FakeShell(lambda _: Result("", 22, "no\n"))
    turn = take(shell, skills)
    assert shell.commands == ["echo one"]
    assert turn.answer == "I stopped at step 1 (Say one): exit status 22. It printed: no"
    assert not turn.succeeded


def test_editing_the_skill_changes_what_is_done(skills: SkillFolder, tmp_path: Path) -> None:
    (tmp_path / "count" / "SKILL.md").write_text("1. Other.\n```sh\nother\n```\n")
    shell = FakeShell()
    take(shell, skills)
    assert shell.commands == ["other"]


def test_a_tool_that_is_not_allowed_is_not_there(skills: SkillFolder) -> None:
    shell = FakeShell()
    assert "no `exec` tool" in take(shell, skills, allowed_tools=("skill",)).answer
    assert "no `skill` tool" in take(shell, skills, allowed_tools=("exec",)).answer
    assert shell.asked == []


def test_a_model_that_calls_a_tool_it_was_not_given_does_not_get_it(
    skills: SkillFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pydantic_ai.messages import ModelMessage, ModelResponse, TextPart, ToolCallPart
    from pydantic_ai.models.function import AgentInfo, FunctionModel

    async def disobey(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        if len(messages) < 3:
            return ModelResponse(parts=[ToolCallPart("exec", {"command": "cat /etc/shadow"})])
        return ModelResponse(parts=[TextPart("gave up")])

    monkeypatch.setattr(engine, "scripted_model", lambda: FunctionModel(disobey))
    shell = FakeShell()
    assert take(shell, skills, allowed_tools=("skill",)).answer == "gave up"
    assert shell.asked == []


def test_a_model_that_never_ends_is_ended(skills: SkillFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    from pydantic_ai.messages import ModelMessage, ModelResponse, ToolCallPart
    from pydantic_ai.models.function import AgentInfo, FunctionModel

    async def again(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        return ModelResponse(parts=[ToolCallPart("exec", {"command": "true"})])

    monkeypatch.setattr(engine, "scripted_model", lambda: FunctionModel(again))
    monkeypatch.setattr(engine, "MAX_REQUESTS", 5)
    shell = FakeShell()
    with pytest.raises(NsharnessError, match="UsageLimitExceeded"):
        take(shell, skills)
    assert len(shell.asked) == 5


@pytest.mark.parametrize(
    "error", [NsharnessError("the sandbox is gone"), OSError(5, "EIO"), KeyboardInterrupt()]
)
def test_what_the_shell_raises_ends_the_turn_as_it_is(skills: SkillFolder, error: BaseException) -> None:
    def fail(command: str) -> Result:
        raise error

    with pytest.raises(type(error)) as caught:
        take(FakeShell(fail), skills)
    assert caught.value is error


def test_commands_run_in_the_calling_thread(skills: SkillFolder) -> None:
    """Only there does Ctrl-C reach them."""
    threads = []

    def note(command: str) -> Result:
        threads.append(threading.current_thread())
        return Result("one\n")

    take(FakeShell(note), skills)
    assert set(threads) == {threading.current_thread()}


INTERRUPTED = """
import os, select, sys
from pathlib import Path
from nsharness.agent.loop import run_turn
from nsharness.agent.skills import SkillFolder

class Shell:
    def run(self, command, timeout=60.0):
        os.write(1, b"r")
        select.select([], [], [], timeout)
        print("waited to the end")

run_turn(prompt="", system_prompt="", model="scripted", allowed_tools=("exec", "skill"), shell=Shell(),
         skills=SkillFolder(Path(sys.argv[1])))
"""


def test_ctrl_c_interrupts_a_running_command_at_once(skills: SkillFolder, tmp_path: Path) -> None:
    command = [sys.executable, "-W", "error", "-c", INTERRUPTED, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.read(1) == "r"
        process.send_signal(signal.SIGINT)
        out, errors = process.communicate(timeout=10)
    assert (process.returncode, out) == (-signal.SIGINT, "")
    assert errors.rstrip().endswith("KeyboardInterrupt")
    assert "never awaited" not in errors
    assert "destroyed" not in errors


@pytest.mark.parametrize("model", ["", "gpt-4o", "test", ":x", "openai:"])
def test_a_model_is_scripted_or_has_a_provider(model: str) -> None:
    with pytest.raises(NsharnessError, match="provider:name"):
        check_model(model)


@pytest.mark.parametrize(
    ("model", "why"), [("nobody:x", "Unknown provider: nobody"), ("openai:x", "OPENAI_API_KEY")]
)
def test_a_model_that_cannot_be_asked_is_one_clear_error(
    skills: SkillFolder, monkeypatch: pytest.MonkeyPatch, model: str, why: str
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(NsharnessError) as caught:
        take(FakeShell(), skills, model=model)
    assert why in str(caught.value)
    assert model in str(caught.value)


class Provider(BaseHTTPRequestHandler):
    """As much of a provider's chat interface as a turn needs: one tool call, then an answer."""

    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (its name in the base class)
        pass

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if request["model"] == "wrong-key":
            key = self.headers["authorization"].removeprefix("Bearer ")
            self._reply(401, {"error": {"message": f"Incorrect API key provided: {key}"}})
            return
        results = [message["content"] for message in request["messages"] if message["role"] == "tool"]
        message: dict[str, Any] = {"role": "assistant", "content": f"it said {results}\udcff"}
        if not results:
            function = {"name": "exec", "arguments": json.dumps({"command": "uname", "seconds": 9})}
            message["content"] = None
            message["tool_calls"] = [{"id": "a", "type": "function", "function": function}]
        choice = {"index": 0, "finish_reason": "stop", "message": message}
        self._reply(
            200,
            {
                "id": "1",
                "object": "chat.completion",
                "created": 1,
                "model": request["model"],
                "choices": [choice],
            },
        )

    def _reply(self, status: int, content: dict[str, Any]) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def provider(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Provider) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        monkeypatch.setenv("OPENAI_BASE_URL", f"http://127.0.0.1:{server.server_port}/v1")
        monkeypatch.setenv("OPENAI_API_KEY", "sk-not-a-real-key-0123456789")
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        yield
        server.shutdown()
        thread.join()


@pytest.mark.usefixtures("provider")
def test_a_real_models_tool_calls_go_the_same_way_one_turn_after_the_other(skills: SkillFolder) -> None:
    for _ in range(2):  # connections are not kept from one turn's event loop to the next
        shell = FakeShell(lambda _: Result("Linux\n"))
        turn = take(shell, skills, model="openai:any")
        assert shell.asked == [("uname", 9.0)]
        assert "Linux" in turn.answer
        assert turn.answer.endswith("?")  # a lone surrogate is no text, and no checkpoint would hold it


@pytest.mark.usefixtures("provider")
def test_what_a_provider_says_about_a_key_is_not_repeated(skills: SkillFolder) -> None:
    with pytest.raises(NsharnessError, match="HTTP 401") as caught:
        take(FakeShell(), skills, model="openai:wrong-key")
    assert "sk-" not in str(caught.value)
    assert caught.value.__suppress_context__
