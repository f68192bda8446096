"""Whether a client may have a run of ours: only where it could have started the same one itself.

A spare is not a child of its client. What confines the client, or shapes what it starts, would not hold for
the run: so every such thing that the kernel shows is compared with ours, and a client that differs in any
gets nothing. What the kernel does not show is Landlock: like every socket of a user's services, ours must not
be within reach of what Landlock confines.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Final

from nsharness.linux.cgroups import hierarchies

_NAMESPACES: Final = ("cgroup", "ipc", "mnt", "net", "pid", "pid_for_children", "time", "user", "uts")
# proc_pid_status(5): who it is, what it may do, what filters it.
_STATUS: Final = (
    "Uid",
    "Gid",
    "Groups",
    "CapInh",
    "CapPrm",
    "CapEff",
    "CapBnd",
    "CapAmb",
    "NoNewPrivs",
    "Seccomp",
    "Seccomp_filters",
    "Cpus_allowed",
)
# proc_pid_stat(5), counted from behind the command's name: nice, and the scheduler's policy.
_NICE, _POLICY = 16, 38


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a process lives under, as far as it can be seen from outside."""

    status: tuple[str, ...]
    namespaces: tuple[str, ...]
    root: tuple[int, int]
    label: str
    limits: str
    scheduling: tuple[str, str]

    def differs(self, other: Surroundings) -> str | None:
        """The name of what is not the same; None where everything is."""
        for field in fields(self):
            if getattr(self, field.name) != getattr(other, field.name):
                return field.name
        return None


def surroundings(pid: int | str = "self") -> Surroundings:
    """Of a process. ``OSError`` when it is gone, or does not let itself be looked at."""
    folder = Path(f"/proc/{pid}")
    lines = dict(line.partition(":")[::2] for line in (folder / "status").read_text().splitlines())
    stat = (folder / "stat").read_text().rpartition(")")[2].split()
    root = (folder / "root").stat()
    return Surroundings(
        tuple(lines.get(name, "").strip() for name in _STATUS),
        tuple(str((folder / "ns" / name).readlink()) for name in _NAMESPACES),
        (root.st_dev, root.st_ino),
        _label(folder),
        _resource_limits((folder / "limits").read_text()),
        (stat[_NICE], stat[_POLICY]),
    )


def _resource_limits(text: str) -> str:
    # Every run forbids core dumps to itself.
    return "\n".join(line for line in text.splitlines() if not line.startswith("Max core file size"))


def _label(folder: Path) -> str:
    # Without a security module that keeps labels reading fails.
    with suppress(OSError):
        return (folder / "attr" / "current").read_text()
    return ""


def group_that_limits(pid: int) -> str | None:
    """A control group that limits that process and that we are not in; None where there is none. What cannot
    be looked at counts as one. ``OSError`` when the process is gone."""
    theirs = Path(f"/proc/{pid}/cgroup").read_text()
    if theirs == Path("/proc/self/cgroup").read_text():
        return None
    trees = hierarchies(f"/proc/{pid}")
    if len(trees) != len(theirs.splitlines()):
        return "one that is not mounted"
    own = {tree.mount: tree.own for tree in hierarchies()}
    for tree in trees:
        ours = own.get(tree.mount, "")
        for group in _up(tree.own, tree.mount):
            if f"{ours}/".startswith(f"{group}/"):
                break
            if _limits(Path(group)):
                return group
    return None


def _up(group: str, mount: str) -> Iterator[str]:
    """The group and those that it is in, the root last."""
    while group.startswith(f"{mount}/"):
        yield group
        group = group.rpartition("/")[0]
    yield mount


# Of both versions: every file in which a controller is told to take something away, and how it says that it
# does not. What a group may use of processors is in Cpus_allowed.
_LIMITS: Final[Mapping[str, frozenset[str]]] = {
    "memory.max": frozenset({"max"}),
    "memory.high": frozenset({"max"}),
    "memory.swap.max": frozenset({"max"}),
    "memory.zswap.max": frozenset({"max"}),
    "pids.max": frozenset({"max"}),
    "cpu.max": frozenset({"max"}),
    "io.max": frozenset(),
    "hugetlb.1GB.max": frozenset({"max"}),
    "hugetlb.2MB.max": frozenset({"max"}),
    "rdma.max": frozenset(),
    "misc.max": frozenset(),
    "cgroup.freeze": frozenset({"0"}),
    # Version 1: unlimited is the largest multiple of a page.
    "memory.limit_in_bytes": frozenset({"9223372036854771712", "9223372036854710272"}),
    "memory.memsw.limit_in_bytes": frozenset({"9223372036854771712", "9223372036854710272"}),
    "memory.kmem.limit_in_bytes": frozenset({"9223372036854771712", "9223372036854710272"}),
    "memory.kmem.tcp.limit_in_bytes": frozenset({"9223372036854771712", "9223372036854710272"}),
    "cpu.cfs_quota_us": frozenset({"-1"}),
    "blkio.throttle.read_bps_device": frozenset(),
    "blkio.throttle.write_bps_device": frozenset(),
    "blkio.throttle.read_iops_device": frozenset(),
    "blkio.throttle.write_iops_device": frozenset(),
    "devices.list": frozenset({"a"}),
    "freezer.state": frozenset({"THAWED"}),
}


def _limits(group: Path) -> bool:
    if not group.is_dir():
        return True
    for name, unlimited in _LIMITS.items():
        try:
            first = (group / name).read_text().split()[:1]
        except FileNotFoundError:
            continue
        except OSError:
            return True
        if first and first[0] not in unlimited:
            return True
    return False
