"""Control groups of both versions (cgroups(7)): where they can be made; making, watching, removing them."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from nsharness.frozen import field, frozen

CONTROLLERS: Final = ("memory", "pids", "cpu")
_OPTIONAL: Final = ("memory.swap.max", "memory.memsw.limit_in_bytes")
_REMOVE_SECONDS: Final = 3.0


@frozen
class Hierarchy:
    """One mounted tree of groups and the group in it that this process is in, both as folders."""

    version: int
    controllers: frozenset[str]
    mount: str
    own: str


@frozen
class Available:
    """Where groups can be made; empty where they cannot."""

    unified: str = ""
    unified_controllers: frozenset[str] = frozenset()
    legacy: dict[str, str] = field(default_factory=dict)


def hierarchies(proc: str = "/proc/self") -> tuple[Hierarchy, ...]:
    """The trees that this process sees; those that are mounted nowhere are left out."""
    try:
        groups = Path(proc, "cgroup").read_text(encoding="utf-8", errors="surrogateescape")
        mounts = Path(proc, "mountinfo").read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return ()
    paths: dict[frozenset[str], str] = {}
    for line in groups.splitlines():
        _, names, path = line.split(":", 2)
        paths[frozenset(filter(None, names.split(",")))] = path
    found = []
    for line in mounts.splitlines():
        before, _, after = line.partition(" - ")
        kind, _, options = after.split(" ", 2)
        if kind not in ("cgroup", "cgroup2"):
            continue
        root, mount = (_unescaped(word) for word in before.split(" ")[3:5])
        on_it = frozenset(options.split(",")) & frozenset().union(*paths)
        key = frozenset() if kind == "cgroup2" else on_it
        if key in paths:
            version = 2 if kind == "cgroup2" else 1
            found.append(Hierarchy(version, key, mount, _below(mount, root, paths[key])))
    return tuple(found)


def _unescaped(word: str) -> str:
    return word.replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\")


def _below(mount: str, root: str, path: str) -> str:
    """The folder of a group whose tree is mounted from ``root`` on; in a container that may be elsewhere."""
    inner = os.path.relpath(path, root)
    return mount if inner == "." or inner.startswith("..") else f"{mount}/{inner}"


def available(trees: Iterable[Hierarchy] | None = None) -> Available:
    """Where this process may make groups that have the controllers which we use. Changes nothing."""
    unified, having = "", frozenset[str]()
    legacy: dict[str, str] = {}
    for tree in hierarchies() if trees is None else trees:
        if tree.version == 1:
            usable = os.access(tree.own, os.W_OK | os.X_OK)
            legacy |= {name: tree.own for name in CONTROLLERS if name in tree.controllers and usable}
        else:
            unified, having = _unified_parent(tree)
    return Available(unified, having, legacy)


def _unified_parent(tree: Hierarchy) -> tuple[str, frozenset[str]]:
    """The group nearest to ours in which others can be made that have the most of our controllers.

    A group with processes cannot give controllers to groups below it, and ours has at least one; so it is
    one further up. Moving a process needs the right to write there too (cgroups(7), delegation).
    """
    best, having = "", frozenset[str]()
    folder = tree.own
    while folder.startswith(tree.mount):
        if os.access(folder, os.W_OK | os.X_OK) and os.access(f"{folder}/cgroup.procs", os.W_OK):
            offered = _words(f"{folder}/cgroup.subtree_control")
            if os.access(f"{folder}/cgroup.subtree_control", os.W_OK) and not _has_processes(folder):
                offered |= _words(f"{folder}/cgroup.controllers")
            offered &= frozenset(CONTROLLERS)
            if len(offered) > len(having):
                best, having = folder, offered
        if folder == tree.mount:
            break
        folder = str(Path(folder).parent)
    return best, having


def _words(path: str) -> frozenset[str]:
    try:
        return frozenset(Path(path).read_text(encoding="ascii").split())
    except OSError:
        return frozenset()


def _has_processes(folder: str) -> bool:
    try:
        return bool(processes(folder))
    except OSError:
        return True


def nproc_counts_namespaces(release: str | None = None) -> bool:
    """Whether RLIMIT_NPROC is counted for each user namespace by itself: since Linux 5.14."""
    text = os.uname().release if release is None else release
    major, _, rest = text.partition(".")
    minor = rest.partition(".")[0].partition("-")[0]
    return major.isdigit() and minor.isdigit() and (int(major), int(minor)) >= (5, 14)


def make(path: str, version: int, controllers: Iterable[str], settings: Iterable[tuple[str, str]]) -> int:
    """Make a group with these settings; a descriptor of its ``cgroup.procs``: who writes 0 there is in it.

    ``OSError`` with the file that the kernel refused; the group is gone again then.
    """
    if version == 2:
        parent = Path(path).parent
        missing = set(controllers) - _words(f"{parent}/cgroup.subtree_control")
        if missing:
            _write(f"{parent}/cgroup.subtree_control", " ".join(f"+{name}" for name in sorted(missing)))
    Path(path).mkdir(mode=0o755)
    try:
        for name, value in settings:
            # A kernel that keeps no account of swap has no file for it.
            if name not in _OPTIONAL or Path(path, name).exists():
                _write(f"{path}/{name}", value)
        return os.open(f"{path}/cgroup.procs", os.O_WRONLY | os.O_CLOEXEC)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(path).rmdir()
        raise


def _write(path: str, text: str) -> None:
    try:
        # Not created where it is missing: these files are the kernel's.
        descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(descriptor, text.encode())
        finally:
            os.close(descriptor)
    except OSError as error:
        raise OSError(error.errno, f"writing {text!r}: {error.strerror}", path) from error


def processes(path: str) -> list[int]:
    """Who is in the group, as far as this pid namespace has a number for them."""
    return [int(word) for word in Path(path, "cgroup.procs").read_text(encoding="ascii").split()]


def count(path: str, file: str, key: str) -> int:
    """A number from a file of lines ``key number``, such as ``memory.events``; 0 when it is not there."""
    with contextlib.suppress(OSError, ValueError):
        for line in Path(path, file).read_text(encoding="ascii").splitlines():
            name, _, value = line.partition(" ")
            if name == key:
                return int(value)
    return 0


def watch_memory(path: str) -> int:
    """A descriptor that becomes readable when a group of version 1 runs out of memory (eventfd(2)).

    Version 1 ends one process then, and cannot be told to end all of the group.
    """
    events = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
    try:
        control = os.open(f"{path}/memory.oom_control", os.O_RDONLY | os.O_CLOEXEC)
        try:
            _write(f"{path}/cgroup.event_control", f"{events} {control}")
        finally:
            os.close(control)
    except BaseException:
        os.close(events)
        raise
    return events


def kill(path: str) -> None:
    """End everything that is in the group now."""
    with contextlib.suppress(OSError):
        _write(f"{path}/cgroup.kill", "1")
        return
    with contextlib.suppress(OSError):
        for pid in processes(path):
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)


def remove(path: str, seconds: float = _REMOVE_SECONDS) -> bool:
    """Remove a group, waiting for those in it that are about to end; whether it is gone. Idempotent."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            Path(path).rmdir()
        except FileNotFoundError:
            return True
        except OSError as error:
            if error.errno != errno.EBUSY or time.monotonic() > deadline:
                return False
            select.select([], [], [], 0.01)
        else:
            return True


def named(prefix: str, trees: Iterable[Hierarchy] | None = None) -> Iterator[str]:
    """Every group whose name begins so, in all trees."""
    for tree in hierarchies() if trees is None else trees:
        for folder, below, _ in os.walk(tree.mount):
            for name in [name for name in below if name.startswith(prefix)]:
                below.remove(name)
                yield f"{folder}/{name}"
