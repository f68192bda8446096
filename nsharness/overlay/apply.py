"""Carry changes over into the workspace.

Every path is opened relative to a descriptor of the workspace, through no symbolic link (``beneath``); a file
appears by a rename within its own directory, whole or not at all. Nothing that the workload made is followed.
What is there afterwards is compared again next time, so applying can be repeated.
"""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Literal

from nsharness.linux.beneath import opened, set_mode
from nsharness.linux.fds import write_all
from nsharness.overlay.changes import Change
from nsharness.overlay.risk import risk
from nsharness.overlay.tree import readable

type Result = Literal["applied", "refused", "failed"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one change; ``why`` for what was not applied, ``warning`` where the host may run it."""

    path: str
    action: str
    result: Result
    why: str = ""
    warning: str = ""


def apply(
    found: Sequence[Change], upper: int, workspace: int, *, began_ns: int, force: bool = False
) -> Iterator[Outcome]:
    """Apply changes, deletions first; one outcome for each.

    What changed in the workspace after ``began_ns`` is left alone, unless ``force``.
    """
    removals = [change for change in found if change.action == "delete"]
    others = [change for change in found if change.action != "delete"]
    for change in sorted(removals, key=lambda c: c.path.count("/"), reverse=True):
        yield _one(change, upper, workspace, began_ns, force)
    for change in others:
        yield _one(change, upper, workspace, began_ns, force)
    # Directories get their modes at the end: until then things are still put there.
    for change in reversed(others):
        if change.after is not None and change.after.kind == "directory":
            with suppress(OSError), opened(workspace, change.path, os.O_PATH | os.O_DIRECTORY) as place:
                set_mode(place, change.after.mode & 0o1777 | stat.S_IMODE(os.fstat(place).st_mode) & 0o2000)


def _one(change: Change, upper: int, workspace: int, began_ns: int, force: bool) -> Outcome:
    def outcome(result: Result, why: str = "") -> Outcome:
        warning = risk(change) if result == "applied" else ""
        return Outcome(change.path, change.action, result, why, warning)

    if reason := refusal(change, began_ns, force):
        return outcome("refused", reason)
    try:
        parent, _, name = change.path.rpartition("/")
        with opened(workspace, parent, os.O_RDONLY | os.O_DIRECTORY) as folder:
            _carry_out(change, name, folder, upper)
    except OSError as error:
        if error.errno == 40:
            return outcome("refused", "a symbolic link is on the way in the workspace")
        return outcome("failed", error.strerror or str(error))
    return outcome("applied")


def refusal(change: Change, began_ns: int = 0, force: bool = False) -> str:
    """Why a change is not applied; empty when it may be."""
    new, old = change.after, change.before
    if new is not None and new.kind == "special":
        return "it is a pipe, a socket or a device"
    if new is not None and new.kind == "file" and new.mode & 0o6000:
        return "it has a set-user-id or set-group-id bit"
    if old is not None and old.kind == "file" and old.changed_ns > began_ns > 0 and not force:
        return "it was changed in the workspace after the run began; --force overrides"
    return ""


def _carry_out(change: Change, name: str, folder: int, upper: int) -> None:
    new = change.after
    if new is None:
        _remove(folder, name)
    elif change.action == "mode":
        with opened(folder, name, os.O_PATH) as place:
            own = 0o700 if new.kind == "directory" else 0
            set_mode(place, new.mode & 0o1777 | own)
    elif new.kind == "directory":
        if change.action == "retype":
            os.unlink(name, dir_fd=folder)
        with suppress(FileExistsError):
            os.mkdir(name, 0o700, dir_fd=folder)
        with opened(folder, name, os.O_PATH | os.O_DIRECTORY):
            return  # Not a link that was there before.
    else:
        if change.before is not None and change.before.kind == "directory":
            os.rmdir(name, dir_fd=folder)
        temporary = f".nsharness-{secrets.token_hex(8)}"
        try:
            if new.kind == "symlink":
                os.symlink(new.target, temporary, dir_fd=folder)
            else:
                _copy(upper, change.path, folder, temporary, new.mode & 0o1777)
            os.rename(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
        except BaseException:
            with suppress(FileNotFoundError):
                os.unlink(temporary, dir_fd=folder)
            raise


def _remove(folder: int, name: str) -> None:
    try:
        os.unlink(name, dir_fd=folder)
    except IsADirectoryError:
        os.rmdir(name, dir_fd=folder)  # What the host has put there meanwhile keeps it.
    except FileNotFoundError:
        return


def _copy(upper: int, path: str, folder: int, name: str, mode: int) -> None:
    with readable(upper, path) as source, _created(folder, name) as target:
        while part := os.read(source, 1 << 20):
            write_all(target, part)
        os.fchmod(target, mode)


@contextmanager
def _created(folder: int, name: str) -> Iterator[int]:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(name, flags, 0o600, dir_fd=folder)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
