"""What processes hold: descriptors, memory; and what the machine holds because of them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from pathlib import Path

_NAMESPACES = ("mnt", "net", "user", "pid", "ipc", "uts", "cgroup")


def descriptors(pid: int) -> int:
    """How many the process has open; needs the right to look into it."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def _megabytes(text: str, names: Iterable[str]) -> float:
    wanted = tuple(f"{name}:" for name in names)
    return sum(int(line.split()[1]) for line in text.splitlines() if line.startswith(wanted)) / 1024


def resident(pid: int) -> float:
    """Megabytes, shared ones as well."""
    return _megabytes(Path(f"/proc/{pid}/status").read_text(), ["VmRSS"])


def private(pid: int) -> float:
    """Megabytes that nobody else has as well (smaps_rollup in proc(5)); needs the right to look into it."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return _megabytes(text, ["Private_Clean", "Private_Dirty"])


def visible(pid: int) -> bool:
    """Whether we may look into it: an undumpable process shows itself to root alone."""
    try:
        Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return False
    return True


def children(pid: int) -> list[int]:
    """Its children, by every thread."""
    found: list[int] = []
    for thread in Path(f"/proc/{pid}/task").glob("*/children"):
        found += map(int, thread.read_text().split())
    return found


def below(pid: int) -> list[int]:
    """The process and all that come from it."""
    found = [pid]
    for each in found:
        with contextlib.suppress(OSError):
            found += children(each)
    return found


def namespaces(pids: Iterable[int]) -> int:
    """How many different ones these processes are in or hold open, as far as we may see."""
    found: set[tuple[int, int]] = set()
    for pid in pids:
        for name in _NAMESPACES:
            with contextlib.suppress(OSError):
                status = Path(f"/proc/{pid}/ns/{name}").stat()
                found.add((status.st_dev, status.st_ino))
        with contextlib.suppress(OSError):
            for entry in Path(f"/proc/{pid}/fd").iterdir():
                with contextlib.suppress(OSError):
                    if str(entry.readlink()).partition(":")[0] in _NAMESPACES:
                        status = entry.stat()
                        found.add((status.st_dev, status.st_ino))
    return len(found)


def mounts(pid: int) -> int:
    """Mounts that the process sees."""
    return len(Path(f"/proc/{pid}/mountinfo").read_text().splitlines())


def links(pid: int) -> int:
    """Network interfaces where the process is."""
    return len(Path(f"/proc/{pid}/net/dev").read_text().splitlines()) - 2
