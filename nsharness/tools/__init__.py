"""A sandbox as tools of a language model, in the forms that clients and SDKs want them.

Read in this order:

``definitions``  the tools: names, descriptions and arguments, and what is wrong with given ones (pure)
``calls``        one call carried out in a sandbox; whatever goes wrong is a result
``formats``      OpenAI's (chat completions and responses) and Anthropic's tool formats
``toolset``      the same as tools of pydantic-ai
``serving``      the same as a server of the Model Context Protocol
``stdio``        that server's standard input and output

A tool does what a program in the sandbox could do and nothing else: none of them changes what a sandbox may
reach. What the SDKs need is imported when it is used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nsharness.tools.formats import (
        anthropic_result,
        anthropic_tools,
        openai_chat_result,
        openai_chat_tools,
        openai_responses_result,
        openai_responses_tools,
    )
    from nsharness.tools.toolset import pydantic_ai_tools

__all__ = [
    "anthropic_result",
    "anthropic_tools",
    "openai_chat_result",
    "openai_chat_tools",
    "openai_responses_result",
    "openai_responses_tools",
    "pydantic_ai_tools",
]


def __getattr__(name: str) -> object:
    """Load a public name from its module on first use (PEP 562)."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = "toolset" if name == "pydantic_ai_tools" else "formats"
    return getattr(import_module(f"nsharness.tools.{module}"), name)
