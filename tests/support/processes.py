"""Looking at processes from outside, through ``/proc`` (proc(5))."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
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
# and that can be read from outside. The adjustment of the out-of-memory score is such a thing, and raising it
# by a little is harmless.


def mark(number: int) -> None:
    """Give this process, and whatever it starts from now on, the mark ``number`` (at least 1)."""
    with contextlib.suppress(OSError):
        path = Path("/proc/self/oom_score_adj")
        path.write_text(str(int(path.read_text()) + number))


def marked_like(pid: int) -> set[int]:
    """The pids of the processes that have the same mark as ``pid``."""
    mark = _mark(pid)
    return {each.pid for each in processes() if mark is not None and _mark(each.pid) == mark}


def _mark(pid: int) -> int | None:
    try:
        return int(Path(f"/proc/{pid}/oom_score_adj").read_text())
    except OSError:
        return None
