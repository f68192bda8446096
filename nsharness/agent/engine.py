"""The side that faces pydantic-ai: tools are offered to a model, the model's failures become our errors.

Imported when a turn is taken and never before: this is what costs 0.3 s.
"""

from __future__ import annotations

import asyncio
import inspect
from typing import Annotated, Any, Final, Literal

from pydantic import Field
from pydantic_ai import Agent, Tool, UsageLimits
from pydantic_ai.exceptions import AgentRunError, ModelHTTPError, UserError
from pydantic_ai.models import Model, infer_model

from nsharness.agent.scripted import scripted_model
from nsharness.agent.tools import Toolbox
from nsharness.errors import NsharnessError

MAX_REQUESTS: Final = 200
"""Times that a model is asked in one turn at most: an end for a model that would go on for ever."""


def ask(model: str, system_prompt: str, prompt: str, tools: tuple[str, ...], toolbox: Toolbox) -> str:
    """The model's final answer, after all the tool calls that it wanted.

    ``NsharnessError`` when the model cannot be asked; what a tool raises comes through as it is.
    """
    what = f"cannot take a turn with the model {model!r}"
    client = _model(model, what)
    agent = Agent(
        client,
        instructions=system_prompt or None,
        tools=[tool for tool in _tools(toolbox) if tool.name in tools],
        retries=2,
    )
    try:
        # Not asyncio.run(): it takes Ctrl-C for itself, and while a command runs it would not act on it.
        with asyncio.Runner() as runner:
            return runner.get_loop().run_until_complete(_turn(agent, client, prompt))
    except ModelHTTPError as error:
        # Without the body: a provider may repeat parts of the key in it.
        raise NsharnessError(
            what,
            why=f"its provider answered HTTP {error.status_code}",
            hint="check the model's name and the API key",
        ) from None
    except (AgentRunError, UserError) as error:
        raise NsharnessError(what, why=f"{type(error).__name__}: {_first_line(error)}") from None


async def _turn(agent: Agent[None, str], model: Model, prompt: str) -> str:
    try:
        result = await agent.run(prompt, usage_limits=UsageLimits(request_limit=MAX_REQUESTS))
        return result.output
    finally:
        # pydantic-ai keeps a provider's connections for later turns, but their event loop ends with this
        # one; a client that was closed is replaced.
        close = getattr(getattr(model, "client", None), "close", None)
        if close is not None and inspect.isawaitable(closing := close()):
            await closing


def _model(name: str, what: str) -> Model:
    if name == "scripted":
        return scripted_model()
    try:
        return infer_model(name)
    except Exception as error:  # noqa: BLE001 (each provider's client has exceptions of its own)
        raise NsharnessError(
            what, why=_first_line(error), hint="--model scripted needs no provider"
        ) from None


def _tools(toolbox: Toolbox) -> list[Tool[None]]:
    # Coroutines that await nothing run in the calling thread; plain functions would get one of their own,
    # where Ctrl-C does not reach them.
    async def run_command(
        command: Annotated[str, Field(description="What bash is to run. The shell keeps its state.")],
        seconds: Annotated[float, Field(description="How long it may take; then it is ended.")] = 60.0,
    ) -> dict[str, Any]:
        return toolbox.exec(command, seconds)

    async def look_up(
        action: Annotated[
            Literal["list", "read", "search"],
            Field(description="list all skills, read a file of one, or search the text of all"),
        ],
        name: Annotated[str, Field(description="read: which skill")] = "",
        path: Annotated[str, Field(description="read: which file of it")] = "SKILL.md",
        query: Annotated[str, Field(description="search: the text to look for")] = "",
    ) -> dict[str, Any]:
        return toolbox.skill(action, name, path, query)

    return [
        Tool(run_command, name="exec", takes_ctx=False, description="Run a command in the sandbox's shell."),
        Tool(look_up, name="skill", takes_ctx=False, description="Look up written procedures. Follow them."),
    ]


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
