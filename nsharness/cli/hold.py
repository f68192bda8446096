"""A run that is kept after its flow: it waits for the end, and takes its profile anew on SIGHUP.

A terminal that goes away sends SIGHUP, too, as it always has, and then the run ends: whoever held it has
left. So the signal means "reload" only while there is the terminal that there was at the start, or where
there never was one.
"""

from __future__ import annotations

import os
import queue
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import NoReturn, Protocol

from nsharness.cli.command import interrupt
from nsharness.errors import NsharnessError
from nsharness.supervisor.console import Console


class Held(Protocol):
    """A sandbox, as far as it matters here."""

    @property
    def id(self) -> str: ...
    @property
    def ended_by(self) -> NsharnessError | None: ...
    def wait(self) -> object: ...


def hold(console: Console, sandbox: Held, reload: Callable[[], str]) -> NoReturn:
    """Wait until a signal ends the run (``Interrupted``) or the sandbox ends (``NsharnessError``). ``reload``
    says itself what came of it."""
    run_id = sandbox.id
    console.plain(f"\nHolding. In another terminal: nsharness enter {run_id} -- bash -c 'env'")
    console.plain(f"nsharness reload {run_id} or SIGHUP reads the profile again.")
    console.plain(f"Ctrl-C or nsharness stop {run_id} ends it.")
    attended = _has_terminal()
    # Its put may be called by a signal handler at any moment, in the middle of a get too.
    asked: queue.SimpleQueue[int] = queue.SimpleQueue()

    def ask(number: int, _: FrameType | None) -> None:
        asked.put(number)

    def watch() -> None:
        sandbox.wait()
        asked.put(0)

    threading.Thread(target=watch, daemon=True).start()
    signal.signal(signal.SIGHUP, ask)
    while True:
        number = asked.get()
        if not number:
            raise sandbox.ended_by or NsharnessError("the sandbox has ended", why="its first process is gone")
        if attended and not _has_terminal():
            interrupt(number, None)
        try:
            reload()
        except NsharnessError:
            continue


def _has_terminal() -> bool:
    """Whether this process has a controlling terminal that still is one (tty(4))."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC))
    except OSError:
        return False
    return True
