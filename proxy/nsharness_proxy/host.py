"""The connection to a host, as the engine keeps it, and what we want to know of it besides."""

from __future__ import annotations

from dataclasses import dataclass

from mitmproxy import http
from mitmproxy.connection import Server


@dataclass(eq=False, repr=False, kw_only=True)
class Host(Server):
    """A host that is connected to, the identity that it is shown, and the first request that is for it."""

    identity: object = None
    shown: bool = False
    """Whether the host wanted to see it, and was shown it."""
    flow: http.HTTPFlow | None = None
    cut: bool = False
    """Whether the connection ended without the end that TLS has for it."""
