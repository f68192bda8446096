"""A program that opens a sandbox and holds it: ``python -I -m tests.support.held STATE [OPTION]…``.

It prints one JSON line about what it has opened and leaves at the end of its standard input. With ``--at N``
something happens to it while it starts: ``--what`` at the N-th call of a function of nsharness. Without it
the line tells how many calls there were.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from nsharness.cli.command import Interrupted, interrupt
from nsharness.errors import NsharnessError
from nsharness.linux.signals import prompt_handlers
from tests.support.processes import descendants, process
from tests.support.sandboxes import opened_box, opened_session

HOSTILE = """
trap '' TERM INT HUP QUIT USR1 USR2 PIPE ALRM TSTP TTIN TTOU
for i in {1..5}; do setsid bash -c "trap '' TERM INT HUP QUIT; while :; do :; done" & done
setsid -f setsid -f sleep 1000
yes > /dev/stdout & yes > /dev/stderr &
(trap '' EXIT; exec -a innocent sleep 1000) &
bash -c 'kill -STOP $$' &
"""
"""A workload that ignores, hides, forks, fills its pipes and stops."""


def happen(what: str) -> None:
    """To this process, or to one below it that may or may not be there yet."""
    number = signal.SIGINT if what == "interrupt" else signal.SIGKILL
    if what in ("interrupt", "kill"):
        os.kill(os.getpid(), number)
        return
    for pid in descendants(os.getpid()):
        found = process(pid)
        if found is not None and found.name.startswith(what):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)


def at_call(number: int, what: str) -> Callable[[FrameType, str, object], None]:
    """A profile function that counts calls of nsharness' functions in this thread."""
    count = 0

    def profile(frame: FrameType, event: str, _: object) -> None:
        nonlocal count
        if event == "call" and "/nsharness/" in frame.f_code.co_filename:
            count += 1
            if count == number:
                sys.setprofile(None)
                happen(what)

    profile.calls = lambda: count  # type: ignore[attr-defined]
    return profile


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("state", type=Path)
    parser.add_argument("--at", type=int, default=0)
    parser.add_argument("--what", default="interrupt")
    parser.add_argument("--hostile", action="store_true")
    parser.add_argument("--fail", action="store_true")
    options = parser.parse_args()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupt)
    profile = at_call(options.at, options.what)
    try:
        sys.setprofile(profile)
        with prompt_handlers(), opened_session(options.state) as session, opened_box(session) as box:
            box.shell.run(HOSTILE if options.hostile else "sleep 1000 &")
            sys.setprofile(None)
            inside = sorted(descendants(box.pid)) or [box.pid]
            spaces: list[int] = []
            with contextlib.suppress(OSError):  # it may be dying already
                spaces = [entry.stat().st_ino for entry in Path(f"/proc/{inside[0]}/ns").iterdir()]
            record = {"zygote": session.zygote.pid, "init": box.pid, "inside": inside, "namespaces": spaces}
            print(json.dumps({**record, "calls": profile.calls()}), flush=True)  # type: ignore[attr-defined]
            if options.fail:
                sys.stdin.readline()
                raise RuntimeError("failed as it was told to")
            sys.stdin.read()
    except Interrupted as interrupted:
        return 128 + interrupted.number
    except NsharnessError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
