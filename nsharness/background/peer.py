"""Whether a client may have a run of ours: only where it could have started the same one itself.

A spare is not a child of its client. What confines the client, or shapes what it starts, would not hold for
the run: so every such thing that the kernel shows is compared with ours, and a client that differs in any
gets nothing. What the kernel does not show is Landlock: like every socket of a user's services, ours must not
be within reach of what Landlock confines.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Final

from nsharness.linux import libc
from nsharness.linux.cgroups import Hierarchy, hierarchies

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
    "Speculation_Store_Bypass",
    "SpeculationIndirectBranch",
    "Cpus_allowed",
    "Mems_allowed",
)
# proc_pid_stat(5), counted from behind the command's name: nice, and the scheduler's policy.
_NICE, _POLICY = 16, 38
# ioprio_get(2): best effort, the middle one.
_IOPRIO_WHO_PROCESS, _IOPRIO_NORMAL = 1, 2 << 13 | 4


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a process lives under, as far as it can be seen from outside.

    ``root`` has the path too: a file system that is bound elsewhere has the same inode there, but not the
    same mounts on it. ``killed_first`` is what is added to its score when memory runs out.
    """

    status: tuple[str, ...]
    namespaces: tuple[str, ...]
    root: tuple[int, int, str]
    label: str
    limits: str
    scheduling: tuple[str, str, int]
    killed_first: int

    def differs(self, other: Surroundings) -> str | None:
        """The name of what is not the same; None where nothing stands in the way."""
        for field in fields(self):
            if field.name != "killed_first" and getattr(self, field.name) != getattr(other, field.name):
                return field.name
        return "killed_first" if other.killed_first > self.killed_first else None


def surroundings(pid: int | str = "self") -> Surroundings:
    """Of a process. ``OSError`` when it is gone, or does not let itself be looked at."""
    folder = Path(f"/proc/{pid}")
    lines = dict(line.partition(":")[::2] for line in (folder / "status").read_text().splitlines())
    stat = (folder / "stat").read_text().rpartition(")")[2].split()
    root = (folder / "root").stat()
    return Surroundings(
        tuple(lines.get(name, "").strip() for name in _STATUS),
        tuple(str((folder / "ns" / name).readlink()) for name in _NAMESPACES),
        (root.st_dev, root.st_ino, str((folder / "root").readlink())),
        _label(folder),
        _resource_limits((folder / "limits").read_text()),
        (stat[_NICE], stat[_POLICY], _input_output_priority(pid)),
        int((folder / "oom_score_adj").read_text()),
    )


def _input_output_priority(pid: int | str) -> int:
    """As ionice(1) sets it; 0 where it follows from the nice value, and where nobody may ask."""
    with suppress(OSError):
        number = 0 if pid == "self" else int(pid)
        found = libc.syscall(libc.syscall_number("ioprio_get"), _IOPRIO_WHO_PROCESS, number)
        # Before Linux 5.18 that was said of a process that had not read anything yet.
        return 0 if found == _IOPRIO_NORMAL else found
    return 0


def _resource_limits(text: str) -> str:
    # Every run forbids core dumps to itself.
    return "\n".join(line for line in text.splitlines() if not line.startswith("Max core file size"))


def _label(folder: Path) -> str:
    # Without a security module that keeps labels reading fails.
    with suppress(OSError):
        return (folder / "attr" / "current").read_text()
    return ""


def group_that_limits(pid: int) -> str | None:
    """A control group that limits that process and that we are not in, or the other way round; None where
    there is none. What cannot be looked at counts as one. ``OSError`` when the process is gone."""
    theirs = Path(f"/proc/{pid}/cgroup").read_text()
    ours = Path("/proc/self/cgroup").read_text()
    if theirs == ours:
        return None
    trees, own = hierarchies(f"/proc/{pid}"), hierarchies()
    if (len(trees), len(own)) != (len(theirs.splitlines()), len(ours.splitlines())):
        return "one that is not mounted"
    return _only_there(trees, own) or _only_there(own, trees)


def _only_there(there: Iterable[Hierarchy], here: Iterable[Hierarchy]) -> str | None:
    """A group that limits there and does not hold here."""
    known = {tree.mount: tree.own for tree in here}
    for tree in there:
        for group in _up(tree.own, tree.mount):
            if f"{known.get(tree.mount, '')}/".startswith(f"{group}/"):
                break
            if _limits(Path(group)) or _is_of_the_system(group):
                return group
    return None


def _is_of_the_system(group: str) -> bool:
    """Whether it is a unit of the system's service manager that is made for something. Such a one may have
    filters (``IPAddressDeny=``, in systemd.resource-control(5)) that no file in the group shows. The manager
    of a user's services may not attach any."""
    parts = group.split("/")
    if any(_OF_A_USER.fullmatch(part) for part in parts):
        return False
    return parts[-1].endswith((".service", ".scope", ".slice")) and not _LOGIN.fullmatch(parts[-1])


def _up(group: str, mount: str) -> Iterator[str]:
    """The group and those that it is in, the root last."""
    while group.startswith(f"{mount}/"):
        yield group
        group = group.rpartition("/")[0]
    yield mount


_OF_A_USER: Final = re.compile(r"user@[0-9]+\.service")
_LOGIN: Final = re.compile(r"user\.slice|user-[0-9]+\.slice|session-[a-z]?[0-9]+\.scope")

# Of both versions: every file in which a controller is told to take something away, and how it says that it
# does not. What a group may use of processors is in Cpus_allowed.
_LIMITS: Final[Mapping[str, frozenset[str]]] = {
    "memory.max": frozenset({"max"}),
    "memory.high": frozenset({"max"}),
    "memory.swap.max": frozenset({"max"}),
    "memory.zswap.max": frozenset({"max"}),
    "pids.max": frozenset({"max"}),
    "cpu.uclamp.max": frozenset({"max"}),
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
    "net_cls.classid": frozenset({"0"}),
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
