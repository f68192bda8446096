"""``nsharness approve RUN [HOST ANSWER]``: what a run asks about hosts that no rule names, and answers."""

from __future__ import annotations

import argparse
import json
from typing import Any, Final

from nsharness.errors import NsharnessError
from nsharness.linux.identity import current
from nsharness.supervisor.client import request
from nsharness.supervisor.console import printable
from nsharness.supervisor.state import RunDirectory, find_run

_SECONDS: Final = 60.0  # Longer than the supervisor itself waits for the proxy.


def approve(options: argparse.Namespace) -> int:
    """List what was asked, or answer about one host. ``NsharnessError`` where the answer is not taken."""
    run = find_run(current(), options.run)
    if options.host is None:
        rows = list(_ask(run, {"op": "questions"})["questions"])
        print(json.dumps(rows) if options.json else "\n".join(_lines(run, rows)))
        return 0
    if options.host in ("once", "always", "never"):
        raise NsharnessError(
            "no host",
            why="by the time the answer arrives it may be another that waits, and the command chooses which",
            hint=f"nsharness approve {options.run} HOST {options.host}",
        )
    if options.answer is None:
        raise NsharnessError(
            "no answer", hint=f"nsharness approve {options.run} {options.host} once|always|never"
        )
    reply = _ask(run, {"op": "answer", "host": options.host, "answer": options.answer})
    print(printable(str(reply["text"])))
    return 0


def _ask(run: RunDirectory, message: dict[str, Any]) -> dict[str, Any]:
    reply = request(run, message, timeout=_SECONDS)
    if reply is None:
        raise NsharnessError(f"run {run.id} has ended already")
    if reply.get("event") == "error":
        raise NsharnessError(
            str(reply.get("what", "")), why=str(reply.get("why", "")), hint=str(reply.get("hint", ""))
        )
    return reply


def _lines(run: RunDirectory, rows: list[dict[str, Any]]) -> list[str]:
    if not rows:
        return [f"{run.id} has asked about no host"]
    lines = []
    for row in rows:
        waits = f", {row['seconds']} s left: {row['text']}" if "seconds" in row else ""
        lines.append(printable(f"{row['host']}  {row['state']}{waits}"))
    return lines
