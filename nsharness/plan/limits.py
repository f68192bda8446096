"""What a sandbox may use, and what holds it to that: wishes and host facts → one mechanism for each limit.

Pure. ``LimitPlan`` is part of the plan and is printed with it; whoever carries it out chooses nothing more.
A limit that was asked for and that nothing here enforces is an error, unless ``best_effort`` lets it be
weaker or absent, which the plan then says.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal

from nsharness.errors import NsharnessError
from nsharness.frozen import as_dict, field, frozen, replace

type Mechanism = Literal["cgroup2", "cgroup1", "rlimit", "tmpfs", "supervisor", "none"]

DEFAULT_PIDS: Final = 4096
"""Processes and threads of a sandbox without ``pids``: more than builds need, less than a host notices."""
DEFAULT_TMP: Final = 1 << 30
"""Bytes of each private file system without ``tmp``; what is in them is in the host's memory."""

_CGROUP_HINT: Final = (
    "run it through sudo, or as: systemd-run --user --scope -p Delegate=yes nsharness …; "
    "or set limits.best_effort = true"
)
# Private writable memory of each process (setrlimit(2)). RLIMIT_AS would count what is only reserved, and
# with that stop Node, Go and Java before they begin.
_WEAK_MEMORY: Final = "RLIMIT_DATA, of each process alone; neither their sum nor files in memory"
# In which CPU time is counted: a tenth of a second, the kernel's own default.
CPU_PERIOD: Final = 100_000


@frozen
class Limits:
    """What was asked for; None is not asked. Bytes, seconds, and cores."""

    memory: int | None = None
    pids: int | None = None
    cpu: float | None = None
    tmp: int | None = None
    open_files: int | None = None
    wall: float | None = None
    output: int | None = None
    best_effort: bool = False

    @property
    def groupless(self) -> bool:
        """Whether nothing was asked for that a control group could enforce."""
        return self.memory is self.pids is self.cpu is None


@frozen
class LimitFacts:
    """What the host offers. Folders are those in which groups for sandboxes can be made, empty for none."""

    unified: str = ""
    """A folder of cgroup v2."""
    unified_controllers: frozenset[str] = frozenset()
    """The controllers that groups in it have."""
    legacy: Mapping[str, str] = field(default_factory=dict)
    """A folder of cgroup v1 for each controller that has one."""
    nproc_of_namespace: bool = True
    """Whether RLIMIT_NPROC counts a user namespace's processes and no others (Linux 5.14)."""


@frozen
class Limit:
    """One limit and its mechanism.

    ``weaker`` says what it is worth where that is less than the name says. Without one that is not ``needed``
    the sandbox starts all the same.
    """

    name: str
    value: float
    mechanism: Mechanism
    weaker: str = ""
    needed: bool = True

    @property
    def text(self) -> str:
        """The value as people write it."""
        if self.name in ("memory", "tmp", "output"):
            return _size(int(self.value))
        return f"{self.value:g} s" if self.name == "wall" else f"{self.value:g}"

    def describe(self) -> str:
        how = {"none": "not enforced", "tmpfs": "size of each file system in memory"}
        note = f": {self.weaker}" if self.weaker else ""
        return f"limit      {self.name} {self.text} ({how.get(self.mechanism, self.mechanism)}{note})"


@frozen
class LimitPlan:
    """Every limit of one sandbox, and the folders in which its groups are to be made."""

    limits: tuple[Limit, ...] = ()
    unified: str = ""
    legacy: Mapping[str, str] = field(default_factory=dict)

    def of(self, name: str) -> Limit | None:
        """The limit of that name, if it has one."""
        return next((limit for limit in self.limits if limit.name == name), None)

    def value(self, name: str, default: float) -> int:
        """What the limit of that name allows, as a whole number."""
        limit = self.of(name)
        return int(default if limit is None else limit.value)

    @property
    def rlimits(self) -> tuple[tuple[str, int], ...]:
        """What every program inside gets by setrlimit(2): name in the ``resource`` module, value."""
        names = {"memory": "RLIMIT_DATA", "pids": "RLIMIT_NPROC", "open_files": "RLIMIT_NOFILE"}
        return tuple(
            (names[limit.name], int(limit.value)) for limit in self.limits if limit.mechanism == "rlimit"
        )

    def groups(self, sandbox: str) -> tuple[Group, ...]:
        """The control groups that the sandbox is to be put into, each with what is to be written there."""
        unified: list[tuple[str, str]] = []
        legacy: list[Group] = []
        for limit in self.limits:
            if limit.mechanism == "cgroup2":
                unified += _unified_settings(limit)
            elif limit.mechanism == "cgroup1":
                path = f"{self.legacy[limit.name]}/{group_name(sandbox)}"
                settings = tuple(_legacy_settings(limit))
                legacy.append(Group(path, 1, (limit.name,), settings, limit.needed))
        of_it = [limit for limit in self.limits if limit.mechanism == "cgroup2"]
        controllers, needed = tuple(limit.name for limit in of_it), any(limit.needed for limit in of_it)
        whole = Group(f"{self.unified}/{group_name(sandbox)}", 2, controllers, tuple(unified), needed)
        return (*([whole] if controllers else []), *legacy)

    def to_record(self) -> dict[str, Any]:
        """As JSON carries it; ``from_record`` gives an equal plan back."""
        return {**as_dict(self), "legacy": dict(self.legacy)}

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> LimitPlan:
        """Read what ``to_record`` wrote; ``KeyError`` or ``TypeError`` for anything else."""
        limits = tuple(Limit(**limit) for limit in record["limits"])
        return cls(limits, record["unified"], record["legacy"])


@frozen
class Group:
    """One control group to make: its folder, cgroup version, controllers, and files to write, in order."""

    path: str
    version: int
    controllers: tuple[str, ...]
    settings: tuple[tuple[str, str], ...]
    needed: bool = True


def group_name(sandbox: str) -> str:
    """What a sandbox's groups are called, so that those that were left behind can be found."""
    return f"nsharness-{sandbox}"


def choose(limits: Limits, facts: LimitFacts) -> LimitPlan:
    """A mechanism for each limit. ``NsharnessError`` for one that was asked for and cannot be enforced."""
    chosen: list[Limit] = []
    for name in ("memory", "pids", "cpu"):
        value = getattr(limits, name)
        if value is None and name == "pids":
            default = _default_pids(facts)
            chosen += [default] if default.mechanism != "none" else []
        elif value is not None:
            limit = _choose(name, value, facts)
            if (limit.weaker or limit.mechanism == "none") and not limits.best_effort:
                raise _unenforceable(limit)
            chosen.append(replace(limit, needed=not limits.best_effort))
    chosen.append(Limit("tmp", limits.tmp or DEFAULT_TMP, "tmpfs"))
    if limits.open_files is not None:
        chosen.append(Limit("open_files", limits.open_files, "rlimit"))
    for name in ("wall", "output"):
        if (value := getattr(limits, name)) is not None:
            chosen.append(Limit(name, value, "supervisor"))
    used = {limit.name for limit in chosen if limit.mechanism == "cgroup1"}
    legacy = {name: folder for name, folder in facts.legacy.items() if name in used}
    unified = facts.unified if any(limit.mechanism == "cgroup2" for limit in chosen) else ""
    return LimitPlan(tuple(chosen), unified, legacy)


def mechanisms(facts: LimitFacts) -> tuple[Limit, ...]:
    """What would enforce each limit here, for ``doctor``; the values mean nothing."""
    names = ("tmpfs", "tmp"), ("rlimit", "open_files"), ("supervisor", "wall"), ("supervisor", "output")
    others = (Limit(name, 1, mechanism) for mechanism, name in names)  # type: ignore[arg-type]
    return (*(_choose(name, 1, facts) for name in ("memory", "pids", "cpu")), *others)


def _choose(name: str, value: float, facts: LimitFacts) -> Limit:
    """The strongest mechanism for memory, pids or cpu."""
    if facts.unified and name in facts.unified_controllers:
        return Limit(name, value, "cgroup2")
    if name in facts.legacy:
        return Limit(name, value, "cgroup1")
    if name == "memory":
        return Limit(name, value, "rlimit", _WEAK_MEMORY)
    if name == "pids" and facts.nproc_of_namespace:
        # Exact: the workload has a user namespace of its own, in which it is the only user.
        return Limit(name, value, "rlimit")
    return Limit(name, value, "none")


def _default_pids(facts: LimitFacts) -> Limit:
    """Nobody asked for it: where nothing enforces it, it is not missed. A control group is not made for it
    alone: moving a process into one waits for all processors, some 10 ms, and rlimits are as exact."""
    if facts.nproc_of_namespace:
        return Limit("pids", DEFAULT_PIDS, "rlimit", needed=False)
    return replace(_choose("pids", DEFAULT_PIDS, facts), needed=False)


def _unenforceable(limit: Limit) -> NsharnessError:
    why = f"there is only {limit.weaker}" if limit.weaker else "nothing here can"
    return NsharnessError(
        f"cannot enforce limits.{limit.name} = {limit.text}",
        why=f"no control group can be made here, and {why}",
        hint=_CGROUP_HINT,
    )


def _unified_settings(limit: Limit) -> list[tuple[str, str]]:
    match limit.name:
        case "memory":
            swap = ("memory.swap.max", "0")
            return [("memory.max", str(int(limit.value))), swap, ("memory.oom.group", "1")]
        case "pids":
            return [("pids.max", str(int(limit.value)))]
        case _:
            return [("cpu.max", f"{_quota(limit.value)} {CPU_PERIOD}")]


def _legacy_settings(limit: Limit) -> list[tuple[str, str]]:
    match limit.name:
        case "memory":
            # The second is memory and swap together, and must never be below the first.
            size = str(int(limit.value))
            return [("memory.limit_in_bytes", size), ("memory.memsw.limit_in_bytes", size)]
        case "pids":
            return [("pids.max", str(int(limit.value)))]
        case _:
            return [("cpu.cfs_period_us", str(CPU_PERIOD)), ("cpu.cfs_quota_us", str(_quota(limit.value)))]


def _quota(cores: float) -> int:
    """Microseconds of CPU time in one period; the kernel takes no less than a millisecond."""
    return max(1000, round(cores * CPU_PERIOD))


def _size(size: int) -> str:
    for unit, factor in (("GiB", 1 << 30), ("GB", 10**9), ("MiB", 1 << 20), ("MB", 10**6), ("kB", 1000)):
        if size and size % factor == 0:
            return f"{size // factor}{unit}"
    return f"{size} bytes"
