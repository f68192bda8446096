"""What people write about the proxy, and about hosts that no rule names."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, StrictInt

from nsharness.policy.model import ASK_SECONDS, Engine, ProxyAuth, Unknown
from nsharness.policy.strict import Strict


class ProxySettings(Strict):
    """How the proxy knows a sandbox."""

    auth: ProxyAuth = Field(
        default="listener",
        description="How the proxy knows the sandbox: by the socket that a connection arrives on, or in "
        "addition by a bearer in the proxy's URL, or by a client certificate at a listener of its own "
        "(`mtls`, port 3129). With the latter two only explicit proxying works.",
    )
    engine: Engine = Field(
        default="fast",
        description="What moves the bytes: `fast`, an engine of nsharness itself for HTTP/1.1, which leaves "
        "WebSockets, and clients that speak nothing but HTTP/2, to mitmproxy, or `mitmproxy` for everything.",
    )


class NetworkSettings(Strict):
    """What becomes of requests that no rule is about."""

    unknown: Unknown = Field(
        default="deny",
        description="What becomes of a request to a host that no rule names: it is denied (`deny`), or waits "
        "until a person has answered (`ask`).",
    )
    ask_seconds: Annotated[StrictInt, Field(ge=1, le=3600)] = Field(
        default=ASK_SECONDS,
        description="How long a question waits for its answer, in seconds; after that it is denied.",
    )
