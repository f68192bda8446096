"""The offline model: ``script.next_move`` as a pydantic-ai model, on the same road as any other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic_ai.messages import (
    ModelMessage,
    ModelResponse,
    RetryPromptPart,
    TextPart,
    ToolCallPart,
    ToolReturnPart,
    UserPromptPart,
)
from pydantic_ai.models.function import AgentInfo, FunctionModel

from nsharness.agent.script import Answer, Task, next_move


def scripted_model() -> FunctionModel:
    """A model that follows the skill literally. It keeps no state: every move comes from the messages."""
    return FunctionModel(_respond, model_name="scripted")


async def _respond(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
    task = Task(
        prompt=_prompt(messages),
        instructions=info.instructions or "",
        tools=frozenset(tool.name for tool in info.function_tools),
    )
    results = _results(messages)
    move = next_move(task, results)
    if isinstance(move, Answer):
        return ModelResponse(parts=[TextPart(move.text)])
    call = ToolCallPart(move.tool, move.arguments, tool_call_id=f"call-{len(results) + 1}")
    return ModelResponse(parts=[call])


def _prompt(messages: Sequence[ModelMessage]) -> str:
    parts = (part for message in messages for part in message.parts)
    texts = (part.content for part in parts if isinstance(part, UserPromptPart))
    return "\n".join(text for text in texts if isinstance(text, str))


def _results(messages: Sequence[ModelMessage]) -> list[dict[str, Any]]:
    """What the calls have returned so far, in order; a call that was refused counts as an error."""
    results: list[dict[str, Any]] = []
    for message in messages:
        for part in message.parts:
            if isinstance(part, ToolReturnPart):
                results.append(part.content if isinstance(part.content, dict) else {"text": part.content})
            elif isinstance(part, RetryPromptPart):
                results.append({"error": part.model_response()})
    return results
