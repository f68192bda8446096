"""What is in a shared folder, as far as ``hide`` needs to know: read once, when a plan is made."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from typing import Final

from nsharness.errors import NsharnessError
from nsharness.plan.hiding import Found, Listed

MAX_ENTRIES: Final = 300_000
"""Entries of one folder that are looked at; a larger one is refused, since something could stay visible."""


def listing(top: str, limit: int = MAX_ENTRIES) -> Iterator[Listed]:
    """Every entry below ``top``, no symlink followed. ``NsharnessError`` beyond ``limit`` entries."""
    seen = 0
    waiting = [top]
    while waiting:
        folder = waiting.pop()
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except FileNotFoundError:
            continue
        except PermissionError:
            yield Listed(folder, "unreadable")
            continue
        for entry in entries:
            seen += 1
            if seen > limit:
                raise NsharnessError(
                    f"cannot hide files in {top!r}",
                    why=f"it has more than {limit} entries, too many to look at",
                    hint="share a smaller folder, or leave hide out",
                )
            try:
                status = entry.stat(follow_symlinks=False)
            except FileNotFoundError:
                continue
            kind = _kind(status.st_mode)
            if kind == "directory":
                waiting.append(entry.path)
            target = os.path.realpath(entry.path) if kind == "symlink" else ""
            several = kind == "file" and status.st_nlink > 1
            yield Listed(entry.path, kind, target, (status.st_dev, status.st_ino) if several else None)


def _kind(mode: int) -> Found:
    if stat.S_ISLNK(mode):
        return "symlink"
    if stat.S_ISDIR(mode):
        return "directory"
    return "file" if stat.S_ISREG(mode) else "special"
