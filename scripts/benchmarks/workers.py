"""Processes that do something once for each line they are sent, and answer with the seconds that it took."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager

from measure import Contender

from nsharness.linux.fds import await_readable

_SECONDS = 20.0


@contextmanager
def worker(argv: Sequence[str], cwd: str = "/") -> Iterator[Contender | None]:
    """What asks such a process; None when it ends, or complains, at its first line."""
    pipe = subprocess.PIPE
    process = subprocess.Popen(argv, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True, cwd=cwd)
    assert process.stdin is not None
    assert process.stdout is not None
    stdin, stdout = process.stdin, process.stdout

    def ask() -> float:
        stdin.write("\n")
        stdin.flush()
        if not await_readable(stdout.fileno(), _SECONDS):
            raise OSError("no answer")
        return float(stdout.readline())

    try:
        try:
            ask()
        except (OSError, ValueError):
            yield None
        else:
            yield ask
    finally:
        process.kill()
        process.wait()


@contextmanager
def workers(named: Mapping[str, Sequence[str]]) -> Iterator[dict[str, Contender]]:
    """Those of several that work."""
    with ExitStack() as stack:
        found = {name: stack.enter_context(worker(argv)) for name, argv in named.items()}
        yield {name: ask for name, ask in found.items() if ask is not None}
