"""Delete a directory with everything below it, whatever modes the workload gave it."""

from __future__ import annotations

import os
import stat
from contextlib import suppress

from nsharness.linux.beneath import opened, set_mode


def remove_tree(parent: int, name: str) -> None:
    """Remove ``name`` below the directory ``parent``, no symbolic link followed; absent is fine. ``OSError``.

    One directory is open at a time, and its entries are reached through it: no depth and no length of a path
    stops this.
    """
    try:
        status = os.lstat(name, dir_fd=parent)
    except FileNotFoundError:
        return
    if not stat.S_ISDIR(status.st_mode):
        os.unlink(name, dir_fd=parent)
        return
    _open_up(parent, name)
    with opened(parent, name, os.O_RDONLY | os.O_DIRECTORY) as top:
        while (deep := _empty(top)) is not None:
            # A directory with directories in it: bring them up to the top, then they are empties like others.
            os.rename(deep[1], _free(top), src_dir_fd=deep[0], dst_dir_fd=top)
            os.close(deep[0])
    os.rmdir(name, dir_fd=parent)


def _empty(top: int) -> tuple[int, str] | None:
    """Delete what can be deleted right below ``top``; the first directory found two levels down, or None."""
    for name in _names(top):
        if not _is_directory(top, name):
            os.unlink(name, dir_fd=top)
            continue
        _open_up(top, name)
        folder = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=top)
        for inner in _names(folder):
            if _is_directory(folder, inner):
                _open_up(folder, inner)  # A directory is renamed by who may write to it (its "..").
                return folder, inner
            os.unlink(inner, dir_fd=folder)
        os.close(folder)
        os.rmdir(name, dir_fd=top)
    return None


def _names(folder: int) -> list[str]:
    with os.scandir(folder) as entries:
        return [entry.name for entry in entries]


def _is_directory(folder: int, name: str) -> bool:
    return stat.S_ISDIR(os.lstat(name, dir_fd=folder).st_mode)


def _open_up(folder: int, name: str) -> None:
    with opened(folder, name, os.O_PATH | os.O_DIRECTORY) as place:
        if stat.S_IMODE(os.fstat(place).st_mode) & 0o700 != 0o700:
            with suppress(PermissionError):  # Then deleting says what cannot be done.
                set_mode(place, 0o700)


def _free(top: int) -> str:
    number = 0
    while True:
        name = f".nsharness-{number}"
        try:
            os.lstat(name, dir_fd=top)
        except FileNotFoundError:
            return name
        number += 1
