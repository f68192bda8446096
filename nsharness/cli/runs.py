"""``nsharness ps``, ``nsharness stop`` and ``nsharness reload``."""

from __future__ import annotations

import argparse
import json
import os
from typing import Final

from nsharness.errors import NsharnessError
from nsharness.linux import fds
from nsharness.linux.identity import current
from nsharness.supervisor.claim import runs_with_traces
from nsharness.supervisor.client import request
from nsharness.supervisor.state import find_run, list_runs

_STOP_SECONDS: Final = 15.0
_RELOAD_SECONDS: Final = 60.0  # Longer than the supervisor itself waits for the proxy.


def ps(options: argparse.Namespace) -> int:
    """One line a run: id, state, pid of its supervisor."""
    rows = []
    for run in (list_runs if options.all else runs_with_traces)(current()):
        reply = request(run, {"op": "status"})
        if reply is not None or options.all:
            state = "running" if reply is not None else "ended"
            rows.append({"run": run.id, "state": state, "pid": reply["pid"] if reply else None})
    if options.json:
        print(json.dumps(rows))
        return 0
    width = max([len(str(row["run"])) for row in rows], default=3)
    print(f"{'RUN':<{width}}  STATE    PID")
    for row in rows:
        print(f"{row['run']:<{width}}  {row['state']:<7}  {row['pid'] or '-'}")
    return 0


def stop(options: argparse.Namespace) -> int:
    """End a run and wait until it is gone."""
    run = find_run(current(), options.run)
    state = request(run, {"op": "status"})
    if state is None:
        raise NsharnessError(f"run {run.id} has ended already")
    # Opened while the run still answers, so that it names that process and no later one.
    pidfd = os.pidfd_open(int(state["pid"]))
    try:
        request(run, {"op": "stop"})
        if not fds.await_readable(pidfd, _STOP_SECONDS):
            raise NsharnessError(
                f"run {run.id} did not end within {_STOP_SECONDS:.0f} s", hint=f"kill -9 {state['pid']}"
            )
    finally:
        os.close(pidfd)
    print(f"{run.id} ended")
    return 0


def reload(options: argparse.Namespace) -> int:
    """Let a run take its profile anew, and say what changed. ``NsharnessError`` where it stays as it was."""
    run = find_run(current(), options.run)
    reply = request(run, {"op": "reload"}, timeout=_RELOAD_SECONDS)
    if reply is None:
        raise NsharnessError(f"run {run.id} has ended already")
    if reply.get("event") == "error":
        raise NsharnessError(
            str(reply.get("what", "")), why=str(reply.get("why", "")), hint=str(reply.get("hint", ""))
        )
    print(reply["text"])
    return 0
