"""The steps that make a sandbox's file system, and the plan that lists them.

Each step is a frozen value that can describe itself; ``nsharness.sandbox.assemble`` carries them out in the
order in which they stand, and does nothing else. Paths are absolute and as the workload will see them;
``source`` is a path on the host.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from nsharness.frozen import field, fields_of, frozen
from nsharness.plan import syscalls
from nsharness.plan.limits import LimitPlan


@frozen
class Directory:
    """A directory to mount on or to hold others; ``owned`` ones belong to the workload."""

    path: str
    owned: bool = False

    def describe(self) -> str:
        return f"directory  {self.path}"


@frozen
class Symlink:
    """A symbolic link of the root file system."""

    path: str
    target: str

    def describe(self) -> str:
        return f"symlink    {self.path} -> {self.target}"


@frozen
class Links:
    """In a directory, a symbolic link for each of ``names`` to what has that name in another, ``into``."""

    path: str
    into: str
    names: tuple[str, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", tuple(self.names))  # JSON knows lists only

    def describe(self) -> str:
        return f"links      {self.path} -> {self.into} ({len(self.names)} names)"


@frozen
class File:
    """A small read-only file with the given text; an ``owned`` one is made by the workload, to mount on.

    Where it is ``binary``, ``content`` is base64.
    """

    path: str
    content: str
    mode: int = 0o444
    owned: bool = False
    binary: bool = False

    def describe(self) -> str:
        if self.binary:
            return f"file       {self.path} ({len(self.content) // 4 * 3} bytes)"
        return f"file       {self.path} ({len(self.content)} characters)"


@frozen
class Stored:
    """A ``File`` whose content is in the file of the plan itself, ``size`` bytes ``at`` its place there; only
    while it is handed over (``nsharness.plan.handover``)."""

    path: str
    at: int
    size: int
    mode: int = 0o444

    def describe(self) -> str:
        return f"file       {self.path} ({self.size} bytes)"


@frozen
class Bind:
    """A file or directory of the host, with all mounts below it; read-only unless ``writable``.

    Set-user-id bits and device files never work through it.
    """

    source: str
    path: str
    writable: bool = False
    noexec: bool = False

    def describe(self) -> str:
        access = "read-write" if self.writable else "read-only"
        origin = "" if self.source == self.path else f" from {self.source}"
        return f"bind       {self.path}{origin} ({access})"


@frozen
class Overlay:
    """A copy-on-write layer over a directory of the host; what is changed goes to ``upper`` (overlayfs).

    ``work`` is the kernel's, on the same file system. Mounts below ``source`` do not appear.
    """

    source: str
    path: str
    upper: str
    work: str

    def describe(self) -> str:
        return f"overlay    {self.path} (changes go to {self.upper})"


@frozen
class Cover:
    """Put the file or directory ``by``, one of the sandbox's own, over the one at ``path``, in a share."""

    path: str
    by: str

    def describe(self) -> str:
        return f"cover      {self.path} by {self.by}"


@frozen
class Device:
    """One device node of the host's ``/dev`` (a workload cannot make its own)."""

    path: str

    def describe(self) -> str:
        return f"device     {self.path}"


@frozen
class Tmpfs:
    """A private file system in memory that belongs to the workload; ``size`` in bytes."""

    path: str
    size: int
    mode: int = 0o755
    noexec: bool = False

    def describe(self) -> str:
        return f"tmpfs      {self.path} ({self.size >> 20} MiB)"


@frozen
class Proc:
    """A fresh procfs that shows only the sandbox's own processes."""

    path: str = "/proc"

    def describe(self) -> str:
        return f"proc       {self.path}"


@frozen
class Devpts:
    """Pseudo-terminals of the sandbox's own."""

    path: str = "/dev/pts"

    def describe(self) -> str:
        return f"devpts     {self.path}"


@frozen
class Mask:
    """Hide what is at ``path``, if anything is: a file reads as empty, a directory is empty and read-only."""

    path: str

    def describe(self) -> str:
        return f"mask       {self.path}"


@frozen
class ReadOnly:
    """Make what is at ``path``, if anything is, read-only from here on."""

    path: str

    def describe(self) -> str:
        return f"read-only  {self.path}"


type _Made = Directory | Symlink | Links | File | Stored
type _Mounted = Bind | Overlay | Cover | Device | Tmpfs | Proc | Devpts | Mask | ReadOnly
type Step = _Made | _Mounted

_MADE: Final = (Directory, Symlink, Links, File, Stored)
_MOUNTED: Final = (Bind, Overlay, Cover, Device, Tmpfs, Proc, Devpts, Mask, ReadOnly)
_KINDS: Final[dict[str, type[Any]]] = {kind.__name__.lower(): kind for kind in (*_MADE, *_MOUNTED)}


@frozen
class Plan:
    """Everything that decides what one sandbox is, but for its network, which is the same for all."""

    sandbox: str
    hostname: str
    uid: int
    gid: int
    cwd: str
    environment: Mapping[str, str]
    steps: tuple[Step, ...]
    limits: LimitPlan = field(default_factory=LimitPlan)
    resolved: Mapping[str, str] = field(default_factory=dict)
    """Paths that the profile names and that led elsewhere over symlinks, to where they led."""
    user_namespaces: bool = False
    """Whether the workload may make user namespaces of its own, as the sandboxes of browsers do."""
    open_files: int = 1024
    """The soft limit of open files that programs begin with, where the hard one allows it."""

    def describe(self) -> str:
        """One line a step, in the order in which they are carried out."""
        head = [
            f"sandbox    {self.sandbox} (uid {self.uid}, gid {self.gid}, cwd {self.cwd})",
            "namespaces user, mount, pid, ipc, uts, cgroup, network",
            f"hostname   {self.hostname}",
            *self._privilege(),
            *(f"resolved   {name} is {path}" for name, path in self.resolved.items()),
        ]
        return "\n".join([*head, *(each.describe() for each in (*self.limits.limits, *self.steps))])

    def _privilege(self) -> list[str]:
        own = "may be made (user, pid, network, ipc)" if self.user_namespaces else "none of its own"
        applied = syscalls.filters(user_namespaces=self.user_namespaces)
        return [
            "privilege  no capability, no_new_privs, locked securebits, empty keyring, no core dumps",
            f"namespaces {own}",
            *(f"seccomp    {one.describe()}" for one in applied),
        ]

    def to_json(self) -> str:
        """The plan as one JSON object; ``from_json`` gives an equal plan back."""
        record = fields_of(self)
        record["environment"] = dict(self.environment)
        record["resolved"] = dict(self.resolved)
        record["limits"] = self.limits.to_record()
        record["steps"] = [{"step": type(step).__name__.lower(), **fields_of(step)} for step in self.steps]
        return json.dumps(record, indent=None, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str | bytes) -> Plan:
        """Read what ``to_json`` wrote; ``ValueError``, ``KeyError`` or ``TypeError`` for anything else."""
        record = json.loads(text)
        steps = []
        for item in record.pop("steps"):
            kind = _KINDS[item.pop("step")]
            steps.append(kind(**item))
        limits = LimitPlan.from_record(record.pop("limits"))
        return cls(steps=tuple(steps), limits=limits, **record)
