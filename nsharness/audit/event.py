"""One event of a sandbox's audit log.

A decision is recorded when it is made, before anything leaves; how the request ended follows as an
event of its own with the same ``request`` number. Header names may stand in an event, values never,
and neither does a query: clients put keys of their own there.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from typing import Any, Literal, cast, get_args

Action = Literal["allow", "inject", "deny", "response", "error", "ask"]
Road = Literal["transparent", "connect", "forward", "dns"]

MAX_TEXT = 2048
"""Characters of a text in an event; of a longer one the beginning is kept, and an ellipsis."""
_quoted = json.encoder.encode_basestring_ascii
_ENCODE = json.JSONEncoder(ensure_ascii=True, separators=(",", ":")).encode
_INTEGERS = frozenset({"at", "request", "port", "status", "sent", "received"})


class Encoded(dict[str, Any]):
    """A JSON object with its text, for one that stands in many events."""

    __slots__ = ("text",)

    def __init__(self, values: dict[str, Any]) -> None:
        super().__init__(values)
        self.text = _ENCODE(values)


@dataclass(frozen=True, slots=True)
class AuditEvent:
    """What was asked for, and what became of it.

    ``allow``, ``inject`` (allowed, with the ``headers`` named) and ``deny`` are decisions; ``response``
    says how an allowed request ended and ``error`` why it did not; ``ask`` that one waits for an answer. An
    ``allow`` has a ``reason`` where the host has a credential that the request goes without
    (``policy.uninjected``), and in a tunnel. ``at`` is nanoseconds of the
    monotonic clock, comparable between the processes of one machine, ``time`` the same moment in
    UTC (RFC 3339). ``request`` counts within one proxy process. ``sent`` and ``received`` are bytes
    of the bodies, ``seconds`` the time from the decision to the end. ``proof`` says why a credential
    could be injected (``policy.proof``).
    """

    at: int
    time: str
    sandbox: str
    action: Action
    road: Road
    request: int = 0
    method: str | None = None
    scheme: str | None = None
    host: str | None = None
    port: int | None = None
    path: str | None = None
    rule: str | None = None
    reason: str | None = None
    headers: tuple[str, ...] = ()
    status: int | None = None
    sent: int | None = None
    received: int | None = None
    seconds: float | None = None
    proof: dict[str, Any] | None = None

    def to_json(self) -> dict[str, Any]:
        """A JSON object without what is absent; texts that a client chose are bounded."""
        return {
            name: _plain(value)
            for name in _NAMES
            if (value := getattr(self, name)) is not None and value != ()
        }

    def to_line(self) -> bytes:  # noqa: C901 - one flat list
        """The same as JSON text, without a line break."""
        # Field by field, since this is written twice for every request: four times as fast as a loop.
        out = [f'{{"at":{self.at},"time":{_quoted(self.time)},"sandbox":{_quoted(self.sandbox)}']
        out.append(f',"action":"{self.action}","road":"{self.road}","request":{self.request}')
        if self.method is not None:
            out.append(f',"method":{_text(self.method)}')
        if self.scheme is not None:
            out.append(f',"scheme":{_text(self.scheme)}')
        if self.host is not None:
            out.append(f',"host":{_text(self.host)}')
        if self.port is not None:
            out.append(f',"port":{self.port}')
        if self.path is not None:
            out.append(f',"path":{_text(self.path)}')
        if self.rule is not None:
            out.append(f',"rule":{_text(self.rule)}')
        if self.reason is not None:
            out.append(f',"reason":{_text(self.reason)}')
        if self.headers:
            out.append(f',"headers":[{",".join(map(_quoted, self.headers))}]')
        if self.status is not None:
            out.append(f',"status":{self.status}')
        if self.sent is not None:
            out.append(f',"sent":{self.sent}')
        if self.received is not None:
            out.append(f',"received":{self.received}')
        if self.seconds is not None:
            out.append(f',"seconds":{self.seconds!r}')
        if self.proof is not None:
            out.append(f',"proof":{self.proof.text if type(self.proof) is Encoded else _ENCODE(self.proof)}')
        out.append("}")
        return "".join(out).encode("ascii")

    @classmethod
    def from_json(cls, data: object) -> AuditEvent:
        """Read what ``to_json`` wrote; ``ValueError`` for anything else."""
        if not isinstance(data, dict):
            raise ValueError("an audit event is a JSON object")
        known = set(_NAMES)
        missing = {"at", "time", "sandbox", "action", "road"} - set(data)
        if missing or set(data) - known:
            raise ValueError(
                f"an audit event has unknown or missing keys: {sorted(missing or set(data) - known)}"
            )
        for name, value in data.items():
            _check(name, value)
        headers = tuple(data.get("headers", ()))
        return cls(**cast("dict[str, Any]", {**data, "headers": headers}))


_NAMES = tuple(field.name for field in fields(AuditEvent))


def _text(value: str) -> str:
    return _quoted(value if len(value) <= MAX_TEXT else _plain(value))


def _plain(value: Any) -> Any:
    if isinstance(value, str) and len(value) > MAX_TEXT:
        return value[: MAX_TEXT - 1] + "…"
    return list(value) if isinstance(value, tuple) else value


def _check(name: str, value: object) -> None:
    if name == "headers":
        right = isinstance(value, list) and all(isinstance(item, str) for item in value)
    elif name in _INTEGERS:
        right = type(value) is int
    elif name == "proof":
        right = isinstance(value, dict)
    elif name == "seconds":
        right = type(value) in (int, float)
    else:
        right = isinstance(value, str)
    if name in ("action", "road"):
        right = value in get_args(Action if name == "action" else Road)
    if not right:
        raise ValueError(f"an audit event has no such {name}")
