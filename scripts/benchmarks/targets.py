"""What the figures are to reach, and whether they do. Pure: from the record that ``--json`` keeps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Record = Mapping[str, Any]

_RATE = "Requests, 32 connections"
_TLS_RATE = "Requests inside TLS, 32 connections"
_LATENCY = "Requests, latency, one connection (median)"
_EVENT = "An event arrives, after it was sent (curl and bash included)"
_DOWNLOAD = "Download of 10 MB, plain"
_MEMORY = "Memory of the proxy"
_START = "Start and end of `true`"
_LINES = "Command lines"
_IMPORTS = "Imports (the sum of `-X importtime`)"
_CALLER = "Sandbox, true, gone, by the memory of who asks"
_EACH = "Private memory of an idle sandbox, 500 alive"
_CREATION = "Creation of one more sandbox, all of them alive"
_SERVED = "200 sandboxes ask through one proxy"
_LEFT = "After 2,000 sandboxes that came and went"
_FAST, _MITM, _MITMDUMP = "nsharness, fast", "nsharness, mitmproxy", "mitmdump with a ten-line addon"
_NO_PROXY, _ENVOY = "no proxy", "Envoy, one worker"
_BWRAP, _POOL = "bwrap --unshare-all", "nsharness: the same from a pool"
_WHOLE, _SHELL = "nsharness: sandbox, true, gone (in-process)", "nsharness: true in the persistent shell"
_COLD, _WARM = "nsharness exec -- true, cold", "nsharness exec -- true, with nsharness up"
_SRT, _CODEX = "srt true", "codex sandbox -- true"


@dataclass(frozen=True, slots=True)
class Target:
    """A row of a table, as a multiple of another row where there is one, is to be at least or at most a
    number. ``less`` is a row that is subtracted from both before."""

    what: str
    table: str
    row: str
    bound: Literal["≥", "≤"]
    number: float
    base: str = ""
    less: str = ""

    def measured(self, record: Record) -> float | None:
        """The figure, None where something of it was not measured."""
        rows = next((each["rows"] for each in record["tables"] if each["title"] == self.table), {})
        if any(name and name not in rows for name in (self.row, self.base, self.less)):
            return None
        less = rows[self.less]["median"] if self.less else 0.0
        figure = float(rows[self.row]["median"] - less)
        if not self.base:
            return figure
        base = rows[self.base]["median"] - less
        return figure / base if base > 0 else None

    def reached(self, figure: float) -> bool:
        return figure >= self.number if self.bound == "≥" else figure <= self.number

    def verdict(self, figure: float | None) -> str:
        """``reached``, or by how much it was missed."""
        if figure is None:
            return "not measured"
        if self.reached(figure):
            return "reached"
        if not self.number or not figure:
            return f"missed by {abs(figure - self.number):.3g}"
        apart = self.number / figure if self.bound == "≥" else figure / self.number
        return f"missed: {apart:.2f} times away"


TARGETS: Sequence[Target] = (
    Target("requests, × Envoy", _RATE, _FAST, "≥", 1.0, _ENVOY),
    Target("requests, × nono-py", _RATE, _FAST, "≥", 2.0, "nono-py"),
    Target("requests, × mitmdump", _RATE, _FAST, "≥", 20.0, _MITMDUMP),
    Target("requests inside TLS, × srt", _TLS_RATE, _FAST, "≥", 2.0, "srt"),
    Target("requests inside TLS, × plain", _TLS_RATE, _FAST, "≥", 0.5, f"{_FAST}, plain"),
    Target("requests by the mitmproxy engine, × mitmdump", _RATE, _MITM, "≥", 1.5, _MITMDUMP),
    Target("added latency, × Envoy's", _LATENCY, _FAST, "≤", 1.5, _ENVOY, _NO_PROXY),
    Target("time of a 10 MB download, × no proxy", _DOWNLOAD, _FAST, "≤", 2.0, _NO_PROXY),
    Target("delay of an event, ms", _EVENT, _FAST, "≤", 1.0, less=_NO_PROXY),
    Target("memory of the proxy without mitmproxy, MB", _MEMORY, _FAST, "≤", 60.0),
    Target("memory of the proxy with mitmproxy, MB", _MEMORY, _MITM, "≤", 130.0),
    Target("sandbox, true, gone, from a pool, × bwrap", _START, _POOL, "≤", 1.0, _BWRAP),
    Target("sandbox, true, gone, × bwrap", _START, _WHOLE, "≤", 3.0, _BWRAP),
    Target("a command in the persistent shell, ms", _START, _SHELL, "≤", 1.0),
    Target(
        "a caller with 100 MB more, × one without",
        _CALLER,
        "caller with 100 MB more",
        "≤",
        1.15,
        "caller as it is",
    ),
    Target("`exec -- true` with `nsharness up`, × srt", _LINES, _WARM, "≤", 0.1, _SRT),
    Target("`exec -- true`, cold, × srt", _LINES, _COLD, "≤", 0.5, _SRT),
    Target("`exec -- true`, cold, × codex", _LINES, _COLD, "≤", 1.2, _CODEX),
    # Budgets of our own: what starts often is to stay as small as it is.
    *(
        Target(f"imports of {what}, × the interpreter's", _IMPORTS, what, "≤", most, "the interpreter")
        for what, most in (
            ("nsharness exec", 12.0),
            ("zygote", 8.0),
            ("proxy, until it has certificates", 20.0),
            ("proxy, until it serves", 37.0),
        )
    ),
    Target("failed requests of 200 sandboxes", _SERVED, "failed requests", "≤", 0.0),
    Target("private memory of an idle sandbox, MB", _EACH, "together", "≤", 3.0),
    Target(
        "creation of the 500th sandbox, × the first fifty",
        _CREATION,
        "up to the 500th",
        "≤",
        1.2,
        "up to the 50th",
    ),
    *(
        Target(f"after 2,000 sandboxes, more {what}", _LEFT, f"more {what}", "≤", limit)
        for what, limit in (
            ("descriptors of the supervisor", 0.0),
            ("descriptors of the zygote", 0.0),
            ("descriptors of the proxy", 0.0),
            ("namespaces", 0.0),
            ("processes", 0.0),
            ("mounts of the zygote", 0.0),
            ("links of the zygote", 0.0),
            ("links of the machine", 0.0),
            ("resident MB of the supervisor", 1.0),
            ("resident MB of the zygote", 1.0),
            ("resident MB of the proxy", 1.0),
        )
    ),
)
