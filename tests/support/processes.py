"""Looking at processes from outside, through ``/proc`` (proc(5))."""

from __future__ import annotations

import contextlib
import os
import resource
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Process:
    """One process; ``started`` (clock ticks since boot) tells it from a later one with the same pid."""

    pid: int
    parent: int
    started: int
    state: str
    name: str

    @property
    def dead(self) -> bool:
        """Ended, though perhaps not yet waited for."""
        return self.state in "ZXx"


def process(pid: int) -> Process | None:
    """The process with this pid, or None."""
    try:
        head, _, tail = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")
    except OSError:
        return None
    fields = tail.split()
    return Process(pid, int(fields[1]), int(fields[19]), fields[0], head.partition("(")[2])


def processes() -> Iterator[Process]:
    """All processes of this pid namespace."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (found := process(int(entry.name))) is not None:
            yield found


def alive(pid: int) -> bool:
    """Whether a process with this pid is running; one that only waits to be reaped is not."""
    found = process(pid)
    return found is not None and not found.dead


def descendants(pid: int) -> set[int]:
    """The pids of all processes below ``pid``, across pid namespaces."""
    children: dict[int, list[int]] = {}
    for each in processes():
        children.setdefault(each.parent, []).append(each.pid)
    found: set[int] = set()
    new = [pid]
    while new:
        below = children.get(new.pop(), [])
        found.update(below)
        new += below
    return found


# A process whose parent has ended is adopted by somebody else; what tells where it came from must then be
# something that every child inherits, through fork, exec, new namespaces and another uid, that nobody resets,
# and that anybody can read from outside. A resource limit that nothing here comes near is such a thing: it
# can always be lowered a little, and never be raised again (getrlimit(2)).

_MARKED = resource.RLIMIT_MSGQUEUE
_AS_IT_IS_CALLED = "Max msgqueue size"


def mark(number: int) -> None:
    """Give this process, and whatever it starts from now on, the mark ``number`` (at least 1)."""
    _, hard = resource.getrlimit(_MARKED)
    value = max(0, (1 << 30 if hard == resource.RLIM_INFINITY else hard) - number)
    resource.setrlimit(_MARKED, (value, value))


def marked_like(pid: int) -> set[int]:
    """The pids of the processes that have the same mark as ``pid``."""
    mark = _mark(pid)
    return {each.pid for each in processes() if mark is not None and _mark(each.pid) == mark}


def strays(known: Collection[int] = ()) -> list[str]:
    """What this process started, also at second hand, and still runs, but for the ``known`` ones.

    Pid and command line of each.
    """
    found = []
    for pid in sorted(marked_like(os.getpid()) - {os.getpid(), *known}):
        if alive(pid):
            with contextlib.suppress(OSError):
                line = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                found.append(f"{pid} {line[:200] or process(pid)}")
    return found


def _mark(pid: int) -> int | None:
    """What the limit is now, or None when the process is gone."""
    try:
        lines = Path(f"/proc/{pid}/limits").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[-2]) for line in lines if line.startswith(_AS_IT_IS_CALLED)), None)
