"""The formats of the SDKs, checked with the SDKs' own types and with pydantic-ai's own loop."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable
from typing import Any

import pytest
from pydantic import TypeAdapter

from nsharness import tools
from nsharness.errors import NsharnessError
from nsharness.tools import (
    anthropic_result,
    anthropic_tools,
    openai_chat_result,
    openai_chat_tools,
    openai_responses_result,
    openai_responses_tools,
)
from tests.support.waiting import DEADLINE
from tests.unit.agent.fakes import FakeShell, Result
from tests.unit.tools.boxes import FakeBox

Carry = Callable[[FakeBox, str, Any], tuple[str, str]]
"""Carries out a call and gives the id in the answer and its text."""


def anthropic(box: FakeBox, name: str, arguments: Any) -> tuple[str, str]:
    from anthropic.types import ToolResultBlockParam, ToolUseBlock

    block = ToolUseBlock.model_construct(id="id1", name=name, input=arguments, type="tool_use")
    result = anthropic_result(box, block)
    TypeAdapter(ToolResultBlockParam).validate_python(result)
    assert anthropic_result(box, block.model_dump(warnings=False)) == result
    assert result.get("is_error", False) == ("error" in json.loads(result["content"]))
    return result["tool_use_id"], result["content"]


def openai_chat(box: FakeBox, name: str, arguments: Any) -> tuple[str, str]:
    from openai.types.chat import ChatCompletionMessageFunctionToolCall, ChatCompletionToolMessageParam

    given = {"id": "id1", "type": "function", "function": {"name": name, "arguments": json.dumps(arguments)}}
    message = openai_chat_result(box, ChatCompletionMessageFunctionToolCall.model_validate(given))
    TypeAdapter(ChatCompletionToolMessageParam).validate_python(message)
    assert openai_chat_result(box, given) == message
    return message["tool_call_id"], message["content"]


def openai_responses(box: FakeBox, name: str, arguments: Any) -> tuple[str, str]:
    from openai.types.responses import ResponseFunctionToolCall
    from openai.types.responses.response_input_param import FunctionCallOutput

    text = json.dumps(arguments)
    given = {"call_id": "id1", "type": "function_call", "name": name, "arguments": text}
    item = openai_responses_result(box, ResponseFunctionToolCall.model_validate(given))
    TypeAdapter(FunctionCallOutput).validate_python(item)
    assert openai_responses_result(box, given) == item
    return item["call_id"], item["output"]


FORMATS = [anthropic, openai_chat, openai_responses]


@pytest.mark.parametrize("carry", FORMATS)
def test_a_call_is_answered_as_the_sdk_wants_it(carry: Carry) -> None:
    box = FakeBox(FakeShell(lambda command: Result(command)))
    number, text = carry(box, "shell", {"command": "é"})
    assert number == "id1"
    assert json.loads(text) == {"exit_code": 0, "stdout": "é", "stderr": "", "cwd": "/tmp"}


@pytest.mark.parametrize("carry", FORMATS)
def test_a_wrong_call_is_answered_with_an_error(carry: Carry) -> None:
    box = FakeBox()
    for name, arguments in (
        ("shell", {"command": 5}),
        ("shell", [1]),
        ("sudo", {}),
        ("read_file", {"path": "x"}),
    ):
        assert json.loads(carry(box, name, arguments)[1]).keys() == {"error"}
    assert box.shell.asked == []


@pytest.mark.parametrize("text", ["{", '{"command": "ls"', "[" * 10**5, "NaN", "1" * 10**4, "null", '"ls"'])
def test_arguments_that_are_no_json_object_are_told_to_the_model(text: str) -> None:
    function = {"name": "shell", "arguments": text}
    answer = openai_chat_result(FakeBox(), {"id": "1", "function": function})
    assert "the arguments " in json.loads(answer["content"])["error"]
    assert len(answer["content"]) < 200


def test_arguments_without_end_are_not_even_parsed() -> None:
    item = {"call_id": "1", "name": "shell", "arguments": "x" * 60_000_000}
    assert "at most" in openai_responses_result(FakeBox(), item)["output"]
    assert (
        "must be JSON in a string" in openai_responses_result(FakeBox(), {**item, "arguments": {}})["output"]
    )


@pytest.mark.parametrize("carry", [anthropic_result, openai_chat_result, openai_responses_result])
@pytest.mark.parametrize("value", [None, {}, "text", {"type": "text", "id": "1"}])
def test_what_is_no_call_is_the_programs_mistake(carry: Callable[..., Any], value: object) -> None:
    with pytest.raises(NsharnessError, match="as a tool call: it has no"):
        carry(FakeBox(), value)


def test_definitions_are_what_the_sdks_send() -> None:
    from anthropic.types import ToolParam
    from openai.types.chat import ChatCompletionToolParam
    from openai.types.responses import FunctionToolParam

    TypeAdapter(list[ToolParam]).validate_python(anthropic_tools())
    TypeAdapter(list[ChatCompletionToolParam]).validate_python(openai_chat_tools())
    TypeAdapter(list[FunctionToolParam]).validate_python(openai_responses_tools())
    assert [tool["name"] for tool in anthropic_tools()] == ["shell", "read_file", "write_file"]
    anthropic_tools()[0]["input_schema"].clear()  # Whoever changes one changes no other's.
    schema = anthropic_tools()[0]["input_schema"]
    assert schema["required"] == ["command"]
    assert (
        schema
        == openai_chat_tools()[0]["function"]["parameters"]
        == openai_responses_tools()[0]["parameters"]
    )


async def test_an_agent_of_pydantic_ai_uses_the_tools() -> None:
    from pydantic_ai import Agent
    from pydantic_ai.models.test import TestModel

    box = FakeBox()
    agent = Agent(TestModel(), tools=tools.pydantic_ai_tools(box))
    answer = json.loads((await agent.run("use them all")).output)
    assert answer.keys() == {"shell", "read_file", "write_file"}
    assert (answer["shell"]["exit_code"], list(answer["read_file"])) == (0, ["error"])
    assert len(box.files) == len(box.shell.asked) == 1


async def test_cancelling_an_agent_ends_its_command() -> None:
    begun, ended = threading.Event(), threading.Event()

    def held(_: str) -> Result:
        begun.set()
        assert ended.wait(DEADLINE)
        return Result()

    class Cancellable(FakeBox):
        def one_call(self) -> tuple[FakeBox, Callable[[], None]]:
            return self, ended.set

    shell, *_ = tools.pydantic_ai_tools(Cancellable(FakeShell(held)))
    task = asyncio.ensure_future(shell.function(command="sleep 1000"))  # type: ignore[call-arg]
    assert await asyncio.to_thread(begun.wait, DEADLINE)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended.is_set()
