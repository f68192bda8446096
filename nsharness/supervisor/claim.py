"""The sign that a run lives: a file in its folder that its supervisor holds locked (flock(2)).

A lock ends with its process, however that ends, and cannot be mistaken for that of a later process with the
same pid. It is not handed on to any child.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from nsharness.errors import NsharnessError
from nsharness.linux.identity import Identity
from nsharness.supervisor.state import RunDirectory, state_home

LIVE: Final = "live"
_NEW: Final = "live.new"
_FRESH_SECONDS: Final = 60.0


def claim(run: RunDirectory) -> int:
    """Say that the run lives, until the descriptor is closed or this process ends.

    ``NsharnessError`` where the file system cannot lock: what a killed run left would never be found.
    """
    try:
        return _locked(run)
    except OSError as error:
        raise NsharnessError(
            f"cannot lock {run.path / LIVE}",
            why=error.strerror or str(error),
            hint="set XDG_STATE_HOME to a directory on a local file system",
        ) from error


@contextmanager
def claimed(run: RunDirectory) -> Iterator[None]:
    """Within the block the run is ours; after it nothing of the claim is left, wherever an interrupt came."""
    descriptor = -1
    try:
        descriptor = claim(run)
        yield
    finally:
        release(run, descriptor)


def _locked(run: RunDirectory) -> int:
    with run.identity.files():
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(run.path / _NEW, flags, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            os.write(descriptor, f"{os.getpid()}\n".encode())  # for people
            # Under its name only when it is locked: otherwise somebody could take us for dead.
            (run.path / _NEW).rename(run.path / LIVE)
        except BaseException:
            os.close(descriptor)
            raise
    return descriptor


def release(run: RunDirectory, descriptor: int) -> None:
    """The run is over, and nothing of it is left."""
    with run.identity.files(), contextlib.suppress(OSError):
        for path in traces(run):
            path.unlink(missing_ok=True)
    if descriptor >= 0:
        os.close(descriptor)


def claim_dead(run: RunDirectory) -> int | None:
    """The claim of a run whose supervisor is gone without having said so; None for every other run.

    As long as the descriptor is open nobody else gets it.
    """
    with run.identity.files():
        for name in (LIVE, _NEW):
            path = run.path / name
            try:
                descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
            except OSError:
                continue
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                os.close(descriptor)
                return None
            # Somebody else may have cleared it away between the two, and the new one is about to be locked.
            if _is_still(descriptor, path) and (name == LIVE or _age(descriptor) > _FRESH_SECONDS):
                return descriptor
            os.close(descriptor)
    return None


def runs_with_traces(
    identity: Identity, environ: Mapping[str, str] | None = None, *, beginning: bool = False
) -> list[RunDirectory]:
    """The runs that have not said that they are over, oldest first: a few of perhaps thousands, which is why
    each of the others costs one call. Those that are just ``beginning``, or were killed then, only where
    wanted. ``NsharnessError`` when they cannot be listed."""
    runs = state_home(identity, environ) / "runs"
    try:
        with identity.files(), os.scandir(runs) as entries:
            found = [
                (entry.stat(follow_symlinks=False).st_mtime_ns, entry.name)
                for entry in entries
                if entry.is_dir(follow_symlinks=False)
                and (_is_there(f"{entry.path}/{LIVE}") or (beginning and _is_there(f"{entry.path}/{_NEW}")))
            ]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise NsharnessError(f"cannot read {runs}", why=error.strerror or str(error)) from error
    return [RunDirectory(name, runs / name, identity) for _, name in sorted(found)]


def _is_there(path: str) -> bool:
    # Where it mostly is not, access(2) takes half the time of lstat(2) and its exception.
    return os.access(path, os.F_OK, follow_symlinks=False)


def traces(run: RunDirectory) -> tuple[Path, ...]:
    """Files of a claim that are there."""
    return tuple(run.path / name for name in (_NEW, LIVE) if os.path.lexists(run.path / name))


def _is_still(descriptor: int, path: Path) -> bool:
    try:
        there, ours = path.lstat(), os.fstat(descriptor)
    except OSError:
        return False
    return (there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino)


def _age(descriptor: int) -> float:
    return time.time() - os.fstat(descriptor).st_ctime
