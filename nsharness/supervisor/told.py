"""What a person is told of an audit event, in one line. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nsharness.supervisor.console import names


def line_of(event: Mapping[str, Any]) -> str | None:
    """The line; None for what goes its usual way."""
    match event.get("action"):
        case "inject":
            what = f"headers for {event.get('host')}: {names(event.get('headers', ()))}"
            if event.get("proof", {}).get("certificate"):
                what = f"{what}, over a connection for its client certificate"
            return f"injected {what}"
        case "allow" if _is_uninjected(event.get("reason")):
            return f"injected nothing for {event.get('host')}: {event.get('reason')}"
        case "deny":
            target = event.get("host") or "a connection"
            return f"denied {event.get('method') or event.get('road')} {target}: {event.get('reason')}"
    return None


def _is_uninjected(reason: object) -> bool:
    """Whether that is why a request went on without a credential."""
    if reason is None:
        return False
    from nsharness.policy.uninjected import REASONS

    return reason in REASONS
