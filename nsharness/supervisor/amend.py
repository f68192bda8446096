"""A run's profile, as a file that an answer may be written to: by its owner, whole or not at all."""

from __future__ import annotations

import contextlib
import datetime as dt
import os
import secrets
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nsharness.errors import NsharnessError
from nsharness.linux.identity import Identity
from nsharness.policy.amend import rule_text, with_host
from nsharness.policy.load import MAX_BYTES


def today() -> str:
    """The date that a comment in a profile has."""
    return dt.datetime.now(dt.UTC).date().isoformat()


def rule_for(host: str) -> str:
    """What a person adds to a profile themselves, where nothing may be written."""
    return rule_text(host, when=today())


@dataclass(frozen=True, slots=True)
class ProfileFile:
    """``path`` is where the profile was, without links, before anything ran: a link may be the workload's
    to change, and lead to another profile by now. ``writable`` is what it can write to."""

    path: Path
    identity: Identity
    writable: Sequence[Path] = ()

    @classmethod
    def at(cls, path: Path, identity: Identity, writable: Sequence[Path] = ()) -> ProfileFile:
        """That of a profile that was just read from ``path``."""
        return cls(Path(os.path.realpath(path)), identity, tuple(writable))

    def add(self, host: str) -> None:
        """Add a rule for a canonical host at the end of the file. ``NsharnessError`` where it must not be
        written, or cannot be: it is as it was then."""
        what = f"profile {self.path} is not changed"
        if any(self.path.is_relative_to(os.path.realpath(each)) for each in self.writable):
            # What stands there by now may be the workload's, and would look as if somebody had approved it.
            raise NsharnessError(what, why="it lies where the workload can write")
        try:
            with self.identity.files():
                self._replace(host)
        except OSError as error:
            raise NsharnessError(what, why=error.strerror or str(error)) from None
        except UnicodeDecodeError:
            raise NsharnessError(what, why="it is not UTF-8 text") from None

    def _replace(self, host: str) -> None:
        real = self.path
        folder = os.open(real.parent, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            content, status = _read(folder, real.name)
            if not stat.S_ISREG(status.st_mode) or status.st_uid != self.identity.owner_uid:
                raise PermissionError(1, "it is no regular file of its user's own")
            made = with_host(content.decode("utf-8"), host, str(self.path), when=today()).encode()
            if len(made) > MAX_BYTES:
                raise OSError(27, "it would be too large")
            temporary = f".{real.name}.{secrets.token_hex(6)}"
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            descriptor = os.open(temporary, flags, 0o600, dir_fd=folder)
            try:
                with os.fdopen(descriptor, "wb") as stream:
                    with contextlib.suppress(PermissionError):  # A group that its user has left.
                        os.fchown(descriptor, -1, status.st_gid)
                    os.fchmod(descriptor, stat.S_IMODE(status.st_mode) & 0o777)
                    stream.write(made)
                    stream.flush()
                    os.fsync(descriptor)
                if _read(folder, real.name)[0] != content:
                    raise OSError(16, "somebody else is changing it")
                os.rename(temporary, real.name, src_dir_fd=folder, dst_dir_fd=folder)
            except BaseException:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(temporary, dir_fd=folder)
                raise
        finally:
            os.close(folder)


def _read(folder: int, name: str) -> tuple[bytes, os.stat_result]:
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    with os.fdopen(os.open(name, flags, dir_fd=folder), "rb") as stream:
        return stream.read(MAX_BYTES + 1), os.fstat(stream.fileno())
