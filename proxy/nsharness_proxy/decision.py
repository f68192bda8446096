"""What a request comes to, as values: while it is decided on, and from then on."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any, Final

from nsharness.policy.authority import Authority, Claims, Refusal
from nsharness.policy.decide import Allow
from nsharness.policy.headers import Field
from nsharness.policy.request import RequestView
from nsharness_proxy.bodies import Inbound, Outbound
from nsharness_proxy.refusal import Refused

DECISION: Final = "decision"
"""Key in a flow's metadata."""

ASKED: Final = "asked"
"""Key in a flow's metadata: how the wait for an answer ended, if there was one."""


@dataclass(frozen=True, slots=True)
class Judged:
    """What a request comes to, and what is known of it by then."""

    outcome: Allow | Refused
    agreed: Authority | Refusal | None = None
    claimed: Claims | None = None
    seen: RequestView | None = None


@dataclass(slots=True)
class Decision:
    """What was decided on a request, and how it went on. ``fields`` are what goes on of its header fields, a
    Host field first; ``secret`` names those that have a secret in them when it is sent."""

    number: int
    claims: Claims
    view: RequestView
    allow: Allow
    fields: tuple[Field, ...]
    secret: tuple[str, ...]
    websocket: bool
    sent: Outbound
    started: float = field(default_factory=time.monotonic)
    received: Inbound = field(default_factory=Inbound)

    @property
    def identity(self) -> tuple[str, str] | None:
        """Which client certificate the host may be shown, by rule and host pattern; None for none."""
        rule = self.allow.rule
        return (rule.name, str(self.allow.pattern)) if rule.client_certificate else None


def request_facts(seen: RequestView) -> dict[str, Any]:
    """What an audit event says of a request."""
    return {name: getattr(seen, name) for name in ("method", "scheme", "host", "port", "path")}
