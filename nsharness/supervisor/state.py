"""The state directory: one folder for each run, private to its owner.

``$XDG_STATE_HOME/nsharness/runs/ID/`` holds ``audit.jsonl``, ``control`` (a socket, while the run lives) and
``result.json``. Under sudo it is the invoking user's, and is opened with that user's rights, so that a link
planted there leads root nowhere.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nsharness.errors import NsharnessError
from nsharness.frozen import frozen
from nsharness.linux.identity import Identity
from nsharness.supervisor.token import new_token


def state_home(identity: Identity, environ: Mapping[str, str] | None = None) -> Path:
    """``$XDG_STATE_HOME/nsharness`` of the owner (XDG Base Directory Specification)."""
    environ = os.environ if environ is None else environ
    configured = environ.get("XDG_STATE_HOME", "")
    # sudo hands on root's or no variable at all; the specification demands an absolute path.
    base = Path(configured) if configured.startswith("/") else identity.home / ".local" / "state"
    return base / "nsharness"


@frozen
class RunDirectory:
    """The folder of one run."""

    id: str
    path: Path
    identity: Identity

    @property
    def control_path(self) -> Path:
        """Where the control socket is while the run lives."""
        return self.path / "control"

    def open_audit(self) -> int:
        """A descriptor that appends to the audit log."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        with self.identity.files():
            return os.open(self.path / "audit.jsonl", flags, 0o600)

    def write_result(self, result: Mapping[str, Any]) -> None:
        """Leave the outcome of the run behind, whole or not at all."""
        temporary = self.path / ".result.json"
        with self.identity.files():
            descriptor = os.open(
                temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600
            )
            with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
                json.dump(result, stream, indent=1)
                stream.write("\n")
            temporary.replace(self.path / "result.json")


def create_run(
    identity: Identity, name: str, environ: Mapping[str, str] | None = None, *, token: str = ""
) -> RunDirectory:
    """A new run's folder with a new id ``NAME-xxxxxxxxxxxx``; ``NsharnessError`` when it cannot be made.

    ``token`` is the random end of the id where somebody has chosen it already.
    """
    runs = state_home(identity, environ) / "runs"
    try:
        with identity.files():
            _make_private(runs, identity.owner_uid)
            while True:
                identifier = f"{name}-{token or new_token()}"
                try:
                    (runs / identifier).mkdir(mode=0o700)
                except FileExistsError:
                    if token:
                        raise
                    continue
                return RunDirectory(identifier, runs / identifier, identity)
    except OSError as error:
        raise NsharnessError(
            f"cannot make a run directory in {runs}",
            why=error.strerror or str(error),
            hint="set XDG_STATE_HOME to a directory that you may write to",
        ) from error


def list_runs(identity: Identity, environ: Mapping[str, str] | None = None) -> list[RunDirectory]:
    """All runs that left a folder, oldest first."""
    runs = state_home(identity, environ) / "runs"
    try:
        with identity.files():
            found = [entry for entry in runs.iterdir() if entry.is_dir() and not entry.is_symlink()]
            found.sort(key=lambda entry: entry.lstat().st_mtime_ns)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise NsharnessError(f"cannot read {runs}", why=error.strerror or str(error)) from error
    return [RunDirectory(entry.name, entry, identity) for entry in found]


def find_run(identity: Identity, text: str, environ: Mapping[str, str] | None = None) -> RunDirectory:
    """The run with this id, or whose id begins so; ``NsharnessError`` for none and for several."""
    runs = list_runs(identity, environ)
    exact = [run for run in runs if run.id == text]
    candidates = exact or [run for run in runs if text and run.id.startswith(text)]
    if len(candidates) != 1:
        why = f"{len(candidates)} runs have an id that begins so" if candidates else "there is none"
        raise NsharnessError(f"no run {text!r}", why=why, hint="nsharness ps lists them")
    return candidates[0]


def _make_private(path: Path, owner: int) -> None:
    """Make the directory and what is missing above it; refuse one that is, or can become, somebody else's."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    for directory in (path, path.parent):
        status = directory.lstat()
        if not stat.S_ISDIR(status.st_mode) or status.st_mode & 0o022 or status.st_uid != owner:
            raise OSError(1, f"{directory} is not a private directory")
