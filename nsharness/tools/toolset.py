"""The tools for agents of pydantic-ai."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from pydantic_ai import Tool

from nsharness.tools.calls import Boxes, call
from nsharness.tools.definitions import TOOLS


def pydantic_ai_tools(box: Boxes) -> list[Tool[None]]:
    """For ``Agent(…, tools=…)``. Calls run in threads, so that the agent's event loop goes on; cancelling the
    agent ends the command that it runs."""
    return [
        Tool.from_schema(
            _carrying_out(box, tool.name),
            name=tool.name,
            description=tool.description,
            json_schema=tool.schema(),
            takes_ctx=False,
        )
        for tool in TOOLS
    ]


def _carrying_out(box: Boxes, name: str) -> Callable[..., Coroutine[Any, Any, dict[str, Any]]]:
    async def carry_out(**arguments: Any) -> dict[str, Any]:
        one, end_early = box.one_call()
        try:
            return (await asyncio.to_thread(call, one, name, arguments)).report
        finally:
            end_early()

    return carry_out
