"""What a credential proxy promises, stated once against real sockets, for every engine that moves the bytes.

This is the interface between the promises and an engine that is put to the test. ``embedded`` is ours,
``naive`` one that keeps none of them. ``roads`` are the ways to send a request, ``world`` the hosts at the
other end; the promises are in ``test_requests``, ``test_answers``, ``test_asking`` and ``test_service``. Each
is tested in depth next to what keeps it, in ``tests/proxy``.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from nsharness.credentials.map import CredentialMap
from nsharness.policy.model import Policy
from tests.proxy.dnsclient import Reply

Entrance = Literal["explicit", "http", "https", "mtls"]


@dataclass(frozen=True, slots=True)
class Setup:
    """What a sandbox is started with. ``upstream_ca`` are authorities in PEM that hosts are verified by,
    ``placeholders`` maps what the workload sees to the name of a secret."""

    policy: Policy
    credentials: CredentialMap
    upstream_ca: str = ""
    bearer: str | None = None
    placeholders: Mapping[str, str] = field(default_factory=dict)


class Served(Protocol):
    """One sandbox that is served: what its workload can do, and what is recorded of it."""

    def dial(self, entrance: Entrance, host: str = "") -> socket.socket:
        """A connection from inside: to the proxy (``mtls``: to the listener at 10.127.0.1:3129 that wants a
        certificate), or to port 80 or 443 of the address of ``host``: a name
        that has one, or an address itself. ``OSError`` if there is none."""

    def resolve(self, name: str, kind: int) -> Reply:
        """What a resolver of the sandbox says."""

    def trust(self) -> ssl.SSLContext:
        """TLS settings of a client that trusts the sandbox's authority and no other."""

    def certificate(self) -> tuple[str, str]:
        """The certificate by which a sandbox whose ``proxy_auth`` is mtls identifies itself, and its key."""

    def audit(self) -> list[dict[str, Any]]:
        """The lines of its audit log."""

    def said(self) -> str:
        """Everything that the engine wrote or told anybody, audit log included."""

    def reload(self, policy: Policy | Mapping[str, Any]) -> bool:
        """Decide by another policy; whether it was taken."""

    def refuse(self, host: str) -> None:
        """A person says no to a host that is asked about."""

    def crash(self) -> AbstractContextManager[None]:
        """Within the block the engine is dead; after it another one goes on."""


class Engine(Protocol):
    """Something that moves the bytes."""

    def serve(self, name: str, setup: Setup, folder: Path) -> AbstractContextManager[Served]:
        """A sandbox of its own; ``ValueError`` if its policy cannot be loaded."""
