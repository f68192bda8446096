"""What runs have left behind whose supervisor was killed: found by the run's id, and removed.

Everything ends by itself when the supervisor does. What can be left then: its run's folder without a word
of the end, with a socket; empty control groups; and a process that somebody had stopped. A run that lives
is never touched: it is known by its claim, which ends with its supervisor and nothing else.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from functools import cache, partial
from itertools import pairwise
from pathlib import Path
from typing import Final, Literal

from nsharness.frozen import frozen
from nsharness.linux import cgroups, fds
from nsharness.linux.identity import Identity
from nsharness.plan.limits import group_name
from nsharness.supervisor.child import RUN_OPTION
from nsharness.supervisor.claim import claim_dead, runs_with_traces, traces
from nsharness.supervisor.state import RunDirectory

INIT_TITLE: Final = "nsharness-init"
_GROUPS: Final = group_name("")
_KILL_SECONDS: Final = 5.0
_FRESH_SECONDS: Final = 60.0


@frozen
class Orphan:
    """One thing that was left behind; ``gone`` once it is no more. A ``record`` is a missing result."""

    run: str
    kind: Literal["process", "group", "file", "record"]
    name: str
    gone: bool = False

    def describe(self) -> str:
        """What it is, in words."""
        if self.kind == "record":
            return f"run {self.run}"
        kind = "control group" if self.kind == "group" else self.kind
        return f"{kind} {self.name} of run {self.run}"


def collect(
    identity: Identity,
    *,
    dry_run: bool = False,
    everything: bool = True,
    environ: Mapping[str, str] | None = None,
) -> list[Orphan]:
    """Find what this owner's dead runs have left, and remove it unless ``dry_run``. Idempotent.

    ``everything`` also looks for empty control groups of runs that nobody knows any more, and at runs that
    were killed before there was anything of them but a folder. The records of a run stay. ``NsharnessError``
    when the runs cannot be listed.
    """
    runs = runs_with_traces(identity, environ, beginning=everything)
    # Looked at once, and only when some run is dead.
    processes, groups = cache(_processes), cache(_groups)
    found: list[Orphan] = []
    living: set[str] = set()
    for run in runs:
        descriptor = claim_dead(run)
        if descriptor is not None:
            try:
                found += _collect_run(run, processes, groups, dry_run)
            finally:
                os.close(descriptor)
        elif traces(run):
            living.add(run.id)
    if everything:
        for identifier, paths in groups().items():
            for path in [] if identifier in living else filter(_is_abandoned, paths):
                found.append(_act(Orphan(identifier, "group", path), partial(_ungroup, path), dry_run))
    return found


def _collect_run(
    run: RunDirectory,
    processes: Callable[[], Mapping[str, list[int]]],
    groups: Callable[[], Mapping[str, list[str]]],
    dry_run: bool,
) -> list[Orphan]:
    found = [_act(orphan, action, dry_run) for orphan, action in _of_run(run, processes, groups)]
    # As long as its claim is there, what could not be done is done again.
    if dry_run or all(orphan.gone for orphan in found):
        found += [
            _act(Orphan(run.id, "file", trace.name), partial(_unlink, run, trace), dry_run)
            for trace in traces(run)
        ]
    return found


def _act(orphan: Orphan, action: Callable[[], bool], dry_run: bool) -> Orphan:
    try:
        gone = not dry_run and action()
    except OSError:
        gone = False
    return Orphan(orphan.run, orphan.kind, orphan.name, gone)


def _of_run(
    run: RunDirectory,
    processes: Callable[[], Mapping[str, list[int]]],
    groups: Callable[[], Mapping[str, list[str]]],
) -> Iterator[tuple[Orphan, Callable[[], bool]]]:
    """What a dead run has left, and how each is removed, in the order in which that is to be done."""
    for pid in processes().get(_token(run.id), []):
        yield Orphan(run.id, "process", str(pid)), partial(_end, pid, run.id)
    for path in groups().get(run.id, []):
        if _holds_only(path, run.identity):
            yield Orphan(run.id, "group", path), partial(_ungroup, path)
    for name in ("control", ".result.json"):
        if os.path.lexists(run.path / name):
            yield Orphan(run.id, "file", name), partial(_unlink, run, run.path / name)
    if not os.path.lexists(run.path / "result.json"):
        yield Orphan(run.id, "record", "result.json"), partial(_mark_ended, run)


def _mark_ended(run: RunDirectory) -> bool:
    run.write_result({"exit_code": 128 + signal.SIGKILL, "error": "its supervisor was killed"})
    return True


def _unlink(run: RunDirectory, path: Path) -> bool:
    with run.identity.files():
        path.unlink(missing_ok=True)
    return True


# --- processes ----------------------------------------------------------------------------------------------


def _processes() -> dict[str, list[int]]:
    """Pids by the random end of the run that their command line names; zombies have none."""
    found: dict[str, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (run := _run_of(int(entry.name))) is not None:
            found.setdefault(_token(run), []).append(int(entry.name))
    return found


def _token(run: str) -> str:
    """The random end of a run's id: a helper may have been started before the rest was known."""
    return run.rpartition("-")[2]


def _run_of(pid: int) -> str | None:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_text(encoding="utf-8", errors="replace").split("\0")
    except OSError:
        return None
    title, _, run = words[0].partition(" ")
    if title == INIT_TITLE and run:
        return run
    prefix = f"{RUN_OPTION}="
    return next(
        (w.removeprefix(prefix) for x, w in pairwise(words) if x == "-X" and w.startswith(prefix)), None
    )


def _end(pid: int, run: str) -> bool:
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        if _token(_run_of(pid) or "") != _token(run):  # the number is another process's by now
            return True
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        return fds.await_readable(pidfd, _KILL_SECONDS)
    except ProcessLookupError:
        return True
    finally:
        os.close(pidfd)


# --- control groups -----------------------------------------------------------------------------------------


def _groups() -> dict[str, list[str]]:
    """Control groups by the run that their name names."""
    found: dict[str, list[str]] = {}
    for path in sorted(cgroups.named(_GROUPS)):
        run = Path(path).name.removeprefix(_GROUPS).rpartition(".")[0]
        found.setdefault(run, []).append(path)
    return found


def _holds_only(path: str, identity: Identity) -> bool:
    """Whether no process of somebody else is in it: a run's folder can be made by whoever owns it."""
    if identity.owner_uid == 0:
        return True
    with contextlib.suppress(OSError):
        return all(_uid(pid) in (identity.owner_uid, None) for pid in cgroups.processes(path))
    return False


def _uid(pid: int) -> int | None:
    with contextlib.suppress(OSError, IndexError, ValueError):
        for line in Path(f"/proc/{pid}/status").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("Uid:"):
                return int(line.split()[1])
    return None


def _is_abandoned(path: str) -> bool:
    """Empty, not made just now, and ours to remove."""
    try:
        fresh = time.time() - Path(path).stat().st_mtime < _FRESH_SECONDS
        return not fresh and not cgroups.processes(path) and os.access(Path(path).parent, os.W_OK)
    except OSError:
        return False


def _ungroup(path: str) -> bool:
    cgroups.kill(path)
    return cgroups.remove(path)
