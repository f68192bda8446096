"""The tools in the formats of model providers' SDKs: definitions to send, and one call carried out.

Calls are taken as the SDKs give them, or as the same in dictionaries. None of the SDKs is imported. The
functions wait for the call's end; a program with an event loop runs them in a thread (``asyncio.to_thread``).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from nsharness.errors import NsharnessError
from nsharness.tools.calls import Answer, Box, call, failed
from nsharness.tools.definitions import MAX_COMMAND, MAX_CONTENT, MAX_PATH, TOOLS

_MAX_JSON: Final = 6 * (MAX_CONTENT + MAX_COMMAND + MAX_PATH)
"""Characters of arguments in JSON, which may write each as an escape of six."""


def openai_chat_tools() -> list[dict[str, Any]]:
    """For ``tools`` of OpenAI's chat completions."""
    return [
        {
            "type": "function",
            "function": {"name": t.name, "description": t.description, "parameters": t.schema()},
        }
        for t in TOOLS
    ]


def openai_chat_result(box: Box, tool_call: object) -> dict[str, Any]:
    """Carry out one of a message's ``tool_calls``: the message to add to the conversation. ``NsharnessError``
    for what is no such call at all."""
    function = _field(tool_call, "function")
    answer = _called(box, _field(function, "name"), _field(function, "arguments"))
    return {"role": "tool", "tool_call_id": _field(tool_call, "id"), "content": to_json(answer)}


def openai_responses_tools() -> list[dict[str, Any]]:
    """For ``tools`` of OpenAI's responses."""
    return [
        {
            "type": "function",
            "name": tool.name,
            "description": tool.description,
            "parameters": tool.schema(),
            "strict": False,  # Strict ones have no arguments that may be left out.
        }
        for tool in TOOLS
    ]


def openai_responses_result(box: Box, item: object) -> dict[str, Any]:
    """Carry out an item of type ``function_call``: the item to add to the input. ``NsharnessError`` for what
    is no such item at all."""
    answer = _called(box, _field(item, "name"), _field(item, "arguments"))
    return {"type": "function_call_output", "call_id": _field(item, "call_id"), "output": to_json(answer)}


def anthropic_tools() -> list[dict[str, Any]]:
    """For ``tools`` of Anthropic's messages."""
    return [{"name": t.name, "description": t.description, "input_schema": t.schema()} for t in TOOLS]


def anthropic_result(box: Box, block: object) -> dict[str, Any]:
    """Carry out a block of type ``tool_use``: the block for the next message of the user. ``NsharnessError``
    for what is no such block at all."""
    answer = call(box, _field(block, "name"), _field(block, "input"))
    result = {"type": "tool_result", "tool_use_id": _field(block, "id"), "content": to_json(answer)}
    return {**result, "is_error": True} if answer.is_error else result


def to_json(answer: Answer) -> str:
    """An answer as the text that a model reads."""
    return json.dumps(answer.report, ensure_ascii=False)


def _called(box: Box, name: object, arguments: object) -> Answer:
    """A call whose arguments are JSON, which a model wrote: it may be none."""
    if not isinstance(arguments, str):
        return failed("the arguments must be JSON in a string")
    if len(arguments) > _MAX_JSON:
        return failed(f"the arguments have {len(arguments)} characters; at most {_MAX_JSON} are taken")
    try:
        parsed = json.loads(arguments or "{}")
    except (ValueError, RecursionError):
        return failed("the arguments are no JSON")
    return call(box, name, parsed)


def _field(value: object, name: str) -> Any:
    """Of an SDK's object or of a dictionary."""
    try:
        return value[name] if isinstance(value, Mapping) else getattr(value, name)
    except (AttributeError, KeyError):
        raise NsharnessError(
            f"cannot carry out a {type(value).__name__} as a tool call",
            why=f"it has no {name}",
            hint="give one call as the SDK has it",
        ) from None
