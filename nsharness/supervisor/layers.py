"""A run's overlay: its directories in the run's folder, whose lock says whether the run still lives.

``runs/ID/overlay/`` (0700) holds ``upper`` and ``work``, which are the kernel's, and ``about.json``: the
workspace and when the run began. They outlive the run, until ``nsharness discard``.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from nsharness.errors import NsharnessError
from nsharness.overlay.tree import Upper, unlocked
from nsharness.plan.steps import Overlay, Plan
from nsharness.supervisor.state import RunDirectory

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Layers:
    """The directory of an overlay, locked for as long as ``descriptor`` is open."""

    path: Path
    descriptor: int
    run: RunDirectory

    def record(self, plan: Plan) -> None:
        """Note what the overlay lies over, and make its top look like that folder's."""
        step = next(step for step in plan.steps if isinstance(step, Overlay))
        identity = self.run.identity
        with identity.files():
            about = self.path / "about.json"
            if about.exists() and json.loads(about.read_text(encoding="utf-8"))["workspace"] != step.source:
                raise NsharnessError(f"run {self.run.id} has an overlay over another folder already")
            mode = Path(step.source).stat().st_mode & 0o1777 | 0o700
            Path(step.upper).chmod(mode)
            if not about.exists():
                record = {"workspace": step.source, "began_ns": time.time_ns()}
                about.write_text(json.dumps(record) + "\n", encoding="utf-8")

    def close(self) -> None:
        """Let go of the lock."""
        os.close(self.descriptor)


def create(run: RunDirectory) -> Layers:
    """The run's overlay, new or that of an earlier sandbox of the same run."""
    identity = run.identity
    path = run.path / "overlay"
    with identity.files():
        for directory in (path, path / "upper", path / "work"):
            directory.mkdir(mode=0o700, exist_ok=True)
    if identity.drop_to is not None and identity.drop_to[0] != identity.owner_uid:
        for directory in (path / "upper", path / "work", path):
            os.chown(directory, *identity.drop_to, follow_symlinks=False)
    return Layers(path, _locked(run, path), run)


def exists(run: RunDirectory) -> bool:
    """Whether the run left an overlay."""
    with run.identity.files():
        return (run.path / "overlay").is_dir()


def lock(run: RunDirectory) -> Layers:
    """The overlay of a run that has ended. ``NsharnessError`` when it lives, or has none."""
    if not exists(run):
        raise NsharnessError(f"run {run.id} has no overlay", why="it had none, or it was discarded")
    return Layers(run.path / "overlay", _locked(run, run.path / "overlay"), run)


def _locked(run: RunDirectory, path: Path) -> int:
    with run.identity.files():
        descriptor = os.open(path, _DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise NsharnessError(
            f"the overlay of run {run.id} is in use",
            why="the run still lives",
            hint=f"nsharness stop {run.id}",
        ) from None
    return descriptor


@dataclass(frozen=True, slots=True)
class Opened:
    """Descriptors of the two layers, and what is known of them."""

    upper: Upper
    lower: int
    workspace: str
    began_ns: int


@contextmanager
def opened_layers(run: RunDirectory) -> Iterator[Opened]:
    """Upper layer and workspace of a run, with the owner's rights. ``NsharnessError`` if there is none."""
    if not exists(run):
        raise NsharnessError(f"run {run.id} has no overlay", why="it had none, or it was discarded")
    try:
        with run.identity.files():
            about = json.loads((run.path / "overlay" / "about.json").read_text(encoding="utf-8"))
            top = os.open(run.path / "overlay", _DIRECTORY)
            lower = os.open(about["workspace"], _DIRECTORY)
    except (OSError, ValueError, KeyError) as error:
        raise NsharnessError(f"cannot open the overlay of run {run.id}", why=str(error)) from error
    try:
        with run.identity.files(), unlocked(top, "upper") as upper:
            yield Opened(upper, lower, str(about["workspace"]), int(about["began_ns"]))
    finally:
        os.close(top)
        os.close(lower)
