"""Which profile holds in a folder, and whether somebody looked at it.

A profile in a folder that a workload could write to may be the workload's own: it is taken only as somebody
trusted it, byte for byte. What is trusted is remembered in ``$XDG_DATA_HOME/nsharness/trusted/``, where no
sandbox can have it: a file for each path, named and filled with hash sums.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from nsharness.credentials.place import secrets_folder
from nsharness.errors import NsharnessError
from nsharness.linux.identity import Identity

PROFILE_NAME: Final = "nsharness.toml"
"""The file that is found by itself."""


def find_profile(start: Path, identity: Identity) -> Path | None:
    """The nearest ``nsharness.toml``, in ``start`` or above it, as far up as folders are the owner's.

    ``NsharnessError`` for one that somebody else owns or may write to.
    """
    for folder in (start, *start.parents):
        try:
            if folder.stat().st_uid != identity.owner_uid:
                return None
            status = (folder / PROFILE_NAME).stat()
        except OSError:
            continue
        if status.st_uid not in (0, identity.owner_uid) or status.st_mode & 0o022:
            raise NsharnessError(
                f"profile {folder / PROFILE_NAME}",
                why="others own it or may write to it",
                hint="make it yours alone, or name another with --profile",
            )
        return folder / PROFILE_NAME
    return None


class TrustStore:
    """What one user has trusted."""

    def __init__(self, identity: Identity) -> None:
        self._identity = identity
        self.folder = secrets_folder(identity.home, os.environ).parent / "trusted"

    def trust(self, path: Path, digest: str) -> None:
        """Remember this text of this file. ``NsharnessError`` when it cannot be stored."""
        entry = self._entry(path)
        try:
            with self._identity.files():
                self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                if self.folder.stat().st_uid != self._identity.owner_uid:
                    raise PermissionError(1, "it belongs to somebody else")
                temporary = entry.with_suffix(f".{os.getpid()}")
                descriptor = os.open(
                    temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600
                )
                with os.fdopen(descriptor, "w", encoding="ascii") as stream:
                    stream.write(digest + "\n")
                temporary.replace(entry)
        except OSError as error:
            raise NsharnessError(
                f"cannot remember that {path} is trusted in {self.folder}", why=error.strerror or str(error)
            ) from None

    def is_trusted(self, path: Path, digest: str) -> bool:
        """Whether this very text was trusted under this path."""
        try:
            with self._identity.files():
                descriptor = os.open(self._entry(path), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
                with os.fdopen(descriptor, encoding="ascii") as stream:
                    status = os.fstat(descriptor)
                    safe = status.st_uid == self._identity.owner_uid and stat.S_ISREG(status.st_mode)
                    return safe and stream.read(200).strip() == digest
        except (OSError, UnicodeDecodeError):
            return False

    def check(
        self,
        path: Path,
        digest: str,
        files: Sequence[Path],
        writable: Sequence[str | os.PathLike[str]],
    ) -> None:
        """``NsharnessError`` for a profile that was not trusted so, if one of its ``files`` is in one of the
        ``writable`` folders."""
        real = [Path(os.path.realpath(each)) for each in files]
        folders = [os.path.realpath(folder) for folder in writable]
        within = any(each.is_relative_to(folder) for each in real for folder in folders)
        if within and not self.is_trusted(path, digest):
            raise NsharnessError(
                f"profile {path} is not trusted",
                why="it lies where a workload can write, and nobody has said that it is right as it is now",
                hint=f"look at it, then run: nsharness trust {path}",
            )

    def _entry(self, path: Path) -> Path:
        import hashlib

        name = hashlib.sha256(os.fsencode(os.path.realpath(path))).hexdigest()
        return self.folder / name
