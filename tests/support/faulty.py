"""The whole composition of ``nsharness run``, with a fault at one step of its start or its end.

``python -I -m tests.support.faulty FOLDER [--phase start|end --at N --victim V]``. A step is the first call
of each function of the supervisor's package in that phase: the N-th one kills the victim with SIGKILL, if it
is there. Without ``--at`` a JSON line tells how many steps there are in each phase.
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
from types import FrameType, TracebackType

from nsharness.cli.command import Interrupted, interrupt
from nsharness.cli.run import _DEMO_SECRETS, _end_this_process, _tokens
from nsharness.errors import NsharnessError
from nsharness.linux.identity import current
from nsharness.linux.signals import prompt_handlers
from nsharness.stages import stage4
from nsharness.supervisor.control import ControlServer
from nsharness.supervisor.credentials import resolve
from nsharness.supervisor.mocks import MockServices
from nsharness.supervisor.proxy import NamespaceProxy
from nsharness.supervisor.sandbox import NamespaceSandbox
from nsharness.supervisor.session import Session
from tests.support.processes import descendants

VICTIMS = {
    "zygote": b"nsharness.sandbox.zygote",
    "init": b"nsharness-init",
    "proxy": b"nsharness_proxy",
    "mocks": b"nsharness_mocks",
}
"""What the command line of each process below the supervisor holds."""


def kill(victim: str) -> None:
    """Kill it now, if it is there."""
    if victim == "supervisor":
        os.kill(os.getpid(), signal.SIGKILL)
    for pid in descendants(os.getpid()):
        with contextlib.suppress(OSError):
            if VICTIMS[victim] in Path(f"/proc/{pid}/cmdline").read_bytes():
                os.kill(pid, signal.SIGKILL)


class Steps:
    """A context manager: within the block the steps of one phase are counted, and the fault is done."""

    def __init__(self, at: int, fault: Callable[[], None]) -> None:
        self._at = at
        self._fault = fault
        self._seen: set[object] = set()

    @property
    def count(self) -> int:
        return len(self._seen)

    def _profile(self, frame: FrameType, event: str, _: object) -> None:
        code = frame.f_code
        if event == "call" and "/nsharness/supervisor/" in code.co_filename and code not in self._seen:
            self._seen.add(code)
            if len(self._seen) == self._at:
                sys.setprofile(None)
                self._fault()
                sys.setprofile(self._profile)

    def __enter__(self) -> Steps:
        sys.setprofile(self._profile)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)


class Ending:
    """The first to be left of several context managers: from here on the end is counted."""

    def __init__(self, start: Steps, end: Steps) -> None:
        self._start, self._end = start, end

    def __enter__(self) -> None:
        self._start.__exit__()

    def __exit__(self, kind: type[BaseException] | None, *_: BaseException | TracebackType | None) -> None:
        self._end.__enter__()


def work(start: Steps, end: Steps) -> None:
    identity = current()
    profile = stage4.load()
    digests = [(secret.name, secret.key) for secret in _DEMO_SECRETS]
    with start:
        with (
            resolve(profile, identity, ensure=_DEMO_SECRETS, digests=digests) as credentials,
            Session("test", identity=identity) as session,
            MockServices(session, _tokens(credentials.digests)) as mocks,
            NamespaceProxy(session, profile, credentials, upstreams=mocks.upstreams) as proxy,
            NamespaceSandbox(session, profile, proxy) as sandbox,
            ControlServer(session, sandbox, _end_this_process),
            Ending(start, end),
        ):
            sandbox.shell.run("setsid sleep 1000 & sleep 1000 & true")
        end.__exit__()


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--phase", choices=["start", "end"], default="start")
    parser.add_argument("--at", type=int, default=0)
    parser.add_argument("--victim", default="supervisor")
    options = parser.parse_args()
    os.environ |= {name: str(options.folder) for name in ("XDG_STATE_HOME", "XDG_DATA_HOME")}
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupt)

    def steps(phase: str) -> Steps:
        return Steps(options.at if phase == options.phase else 0, lambda: kill(options.victim))

    start, end = steps("start"), steps("end")
    try:
        with prompt_handlers():
            work(start, end)
    except Interrupted as interrupted:
        return 128 + interrupted.number
    except NsharnessError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    print(json.dumps({"start": start.count, "end": end.count}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
