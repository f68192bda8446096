"""What a test made and did not clear away: processes, mounts, links, namespaces, control groups, files."""

from __future__ import annotations

import contextlib
import gc
import os
from dataclasses import dataclass, fields
from pathlib import Path

from nsharness.linux import cgroups
from nsharness.plan.limits import group_name
from tests.support import processes, waiting


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What is there; each part a set of descriptions."""

    processes: frozenset[str]
    mounts: frozenset[str]
    links: frozenset[str]
    descriptors: frozenset[str]
    files: frozenset[str]
    groups: frozenset[str]

    def since(self, before: Surroundings) -> list[str]:
        """What has come since ``before``, a line each."""
        return [
            f"{field.name}: {item}"
            for field in fields(self)
            for item in sorted(getattr(self, field.name) - getattr(before, field.name))
        ]


def surroundings(temporary: Path) -> Surroundings:
    """Look around. ``temporary`` is the folder that the test is told to use for temporary files."""
    return Surroundings(
        processes=_processes(),
        mounts=frozenset(_mount_points()),
        links=frozenset(_names("/sys/class/net")),
        descriptors=frozenset(_descriptors()),
        files=frozenset(_names(temporary)),
        groups=frozenset(_empty_groups()),
    )


def left_since(before: Surroundings, temporary: Path, timeout: float = waiting.DEADLINE) -> list[str]:
    """What has come since and does not go away by itself: the dying get some time."""
    remaining = surroundings(temporary).since(before)
    if not remaining:
        return []
    gc.collect()  # it takes longer than all the rest, and is needed only for what sits in a cycle

    def gone() -> bool:
        remaining[:] = surroundings(temporary).since(before)
        return not remaining

    try:
        waiting.eventually(gone, timeout)
    except AssertionError:
        return remaining
    return []


def _processes() -> frozenset[str]:
    """Ours by descent or by mark: a test that runs beside this one, in another worker, has another mark."""
    ours = processes.descendants(os.getpid()) | processes.marked_like(os.getpid()) - {os.getpid()}
    found = (processes.process(pid) for pid in ours)
    return frozenset(f"{each.pid} {each.name} ({each.started})" for each in found if each and not each.dead)


def _empty_groups() -> list[str]:
    """Control groups of sandboxes that are over. One that is not has processes, also a neighbour's."""
    found = []
    for path in cgroups.named(group_name("")):
        with contextlib.suppress(OSError):
            found += [] if cgroups.processes(path) else [path]
    return found


def _names(folder: Path | str) -> list[str]:
    return [entry.name for entry in Path(folder).iterdir()]


def _mount_points() -> list[str]:
    return [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]


def _descriptors() -> list[str]:
    """Open handles that keep a kernel object alive; ordinary files and pipes are not of interest."""
    kinds = (
        "net:",
        "mnt:",
        "user:",
        "pid:",
        "ipc:",
        "uts:",
        "cgroup:",
        "socket:",
        "/memfd:",
        "anon_inode:[pidfd]",
    )
    found = []
    for entry in Path("/proc/self/fd").iterdir():
        try:
            target = str(entry.readlink())
        except OSError:  # the one that the listing itself used
            continue
        if target.startswith(kinds):
            found.append(f"{entry.name} -> {target}")
    return found
