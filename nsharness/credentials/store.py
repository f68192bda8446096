"""Secrets on disk: one file per key, readable by their owner alone.

The folder is flat, ``NAME.KEY`` is a file's name and its content the value; names hold no dot, so
neither two secrets nor a path can be confused. Every file is written whole and renamed into
place, so concurrent writers lose nothing and a crash leaves the old value. Everything is opened
relative to the folder's descriptor and without following links; a link, a second name, a foreign
owner or a mode that lets others in is refused with the remedy, never repaired in silence.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import secrets
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from nsharness.credentials.place import secrets_folder
from nsharness.credentials.secret import MAX_BYTES, MIN_BYTES, Secret, SecretNotFoundError, SecretRef
from nsharness.errors import NsharnessError
from nsharness.linux.fds import write_all

_TEMPORARY = re.compile(r"\.new-[0-9a-f]{16}")


class SecretStore:
    """The secrets of one user below ``root``, which is made at the first ``set``.

    ``owner`` is the uid that folder and files must belong to, by default the effective one. Under
    sudo call this as the invoking user, or with that user's file-system uid and ``owner``.
    """

    def __init__(self, root: Path, *, owner: int | None = None) -> None:
        self.root = root
        self._owner = os.geteuid() if owner is None else owner

    @classmethod
    def default(cls, home: Path, environ: Mapping[str, str], *, owner: int | None = None) -> SecretStore:
        """The store in the user's data folder."""
        return cls(secrets_folder(home, environ), owner=owner)

    def set(self, name: str, key: str, value: bytes) -> bool:
        """Store a value, replacing one that was there. True if a newline at its end was taken off.

        ``NsharnessError`` when the value is shorter than 8 bytes, too long, no UTF-8 or has control
        characters, and when the store is not safe to write to.
        """
        ref = _ref(name, key)
        checked, stripped = _checked(ref, value)
        with self._locked(ref) as folder:
            self._write(folder, ref, checked)
        return stripped

    def ensure(self, name: str, key: str, make: Callable[[], bytes]) -> bool:
        """Store ``make()`` unless the key exists. True if it was made now; of several processes, by one."""
        ref = _ref(name, key)
        with self._locked(ref) as folder:
            if (ref.name, ref.key) in self._refs(folder):
                return False
            checked, _ = _checked(ref, make())
            self._write(folder, ref, checked)
            return True

    def get(self, name: str, key: str) -> Secret:
        """The value. ``SecretNotFoundError`` tells whether the secret or only the key is missing."""
        ref = _ref(name, key)
        with self._open(create=False) as folder:
            if folder is not None:
                value = self._read(folder, ref)
                if value is not None:
                    return value
                keys = [key for name, key in self._refs(folder) if name == ref.name]
                if keys:
                    raise SecretNotFoundError(ref, why=f"it has no key {ref.key}, only {', '.join(keys)}")
        raise SecretNotFoundError(ref, why="there is no such secret")

    def names(self) -> list[tuple[str, tuple[str, ...]]]:
        """The secrets and their keys, sorted; no value is read."""
        with self._open(create=False) as folder:
            found: dict[str, list[str]] = {}
            for name, key in self._refs(folder) if folder is not None else ():
                found.setdefault(name, []).append(key)
        return [(name, tuple(keys)) for name, keys in found.items()]

    def remove(self, name: str, key: str | None = None) -> None:
        """Remove one key, or the secret with all its keys; ``NsharnessError`` when there is none."""
        what = f"secret {_ref(name, key)}" if key is not None else f"secret {_ref(name, name).name}"
        removed = False
        with self._open(create=False) as folder:
            if folder is not None:
                fcntl.flock(folder, fcntl.LOCK_EX)
                for found in self._refs(folder):
                    if found[0] == name and key in (None, found[1]):
                        os.unlink(".".join(found), dir_fd=folder)
                        removed = True
                os.fsync(folder)
        if not removed:
            raise NsharnessError(
                what, why="it does not exist", hint="nsharness secret list shows those that do"
            )

    @contextmanager
    def _locked(self, ref: SecretRef) -> Iterator[int]:
        """The folder, made if need be, while no other process of ours writes to it."""
        with self._open(create=True) as folder:
            assert folder is not None
            fcntl.flock(folder, fcntl.LOCK_EX)
            try:
                yield folder
            except OSError as error:
                raise NsharnessError(
                    f"secret {ref} cannot be stored in {self.root}",
                    why=error.strerror or type(error).__name__,
                ) from None

    @contextmanager
    def _open(self, *, create: bool) -> Iterator[int | None]:
        """The folder's descriptor, checked; None when it does not exist and is not to be made."""
        if create:
            try:
                self.root.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                self.root.mkdir(mode=0o700)
            except FileExistsError:
                pass
            except OSError as error:
                hint = "set XDG_DATA_HOME to a directory that you may write to"
                raise self._unusable(error.strerror or type(error).__name__, hint) from None
        try:
            folder = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            yield None
            return
        except OSError as error:
            if self.root.is_symlink():
                hint = "replace the link by a folder of your own"
                raise self._unusable("it is a symbolic link", hint) from None
            raise self._unusable(error.strerror or type(error).__name__) from None
        try:
            status = os.fstat(folder)
            if status.st_uid != self._owner:
                raise self._unusable(f"it belongs to uid {status.st_uid}, not to uid {self._owner}")
            if stat.S_IMODE(status.st_mode) & 0o077:
                raise self._unusable("others may look into it", f"chmod 700 {self.root}")
            yield folder
        finally:
            os.close(folder)

    def _refs(self, folder: int) -> list[tuple[str, str]]:
        """Name and key of every file that this store wrote. Whatever else lies there is nobody's secret."""
        refs = []
        for entry in sorted(os.listdir(folder)):
            try:
                ref = SecretRef.parse(entry)
            except ValueError:
                continue
            refs.append((ref.name, ref.key))
        return refs

    def _read(self, folder: int, ref: SecretRef) -> Secret | None:
        try:
            # O_NONBLOCK: opening a FIFO would wait for a writer.
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            descriptor = os.open(str(ref), flags, dir_fd=folder)
        except FileNotFoundError:
            return None
        except OSError as error:
            link = error.errno == errno.ELOOP
            raise self._unsafe(ref, "it is a symbolic link" if link else error.strerror or "") from None
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise self._unsafe(ref, "it is not a regular file")
            if status.st_uid != self._owner:
                raise self._unsafe(ref, f"it belongs to uid {status.st_uid}, not to uid {self._owner}")
            if status.st_nlink != 1:
                raise self._unsafe(ref, "the file has a second name (hard link)")
            if stat.S_IMODE(status.st_mode) & 0o077:
                raise self._unsafe(ref, "others may read it: treat it as known and replace it")
            content = os.read(descriptor, MAX_BYTES + 1)
        finally:
            os.close(descriptor)
        return Secret(_checked(ref, content)[0])

    def _write(self, folder: int, ref: SecretRef, value: bytes) -> None:
        """Write beside and rename. Under the lock every temporary file is one that a crash left."""
        for entry in os.listdir(folder):
            if _TEMPORARY.fullmatch(entry):
                os.unlink(entry, dir_fd=folder)
        temporary = f".new-{secrets.token_hex(8)}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(temporary, flags, 0o600, dir_fd=folder)
        try:
            try:
                os.fchmod(descriptor, 0o600)
                write_all(descriptor, value)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            os.rename(temporary, str(ref), src_dir_fd=folder, dst_dir_fd=folder)
        except BaseException:
            os.unlink(temporary, dir_fd=folder)
            raise
        os.fsync(folder)

    def _unusable(self, why: str, hint: str = "") -> NsharnessError:
        return NsharnessError(f"secret store {self.root}", why=why, hint=hint)

    def _unsafe(self, ref: SecretRef, why: str) -> NsharnessError:
        return NsharnessError(f"secret {ref} in {self.root}", why=why, hint=ref.remedy)


def _ref(name: str, key: str) -> SecretRef:
    try:
        return SecretRef(name, key)
    except ValueError as error:
        raise NsharnessError(str(error), hint="for instance: nsharness secret set wiki --key token") from None


def _checked(ref: SecretRef, value: bytes) -> tuple[bytes, bool]:
    """The value without one newline at its end, and whether there was one; or why it is none."""
    line = value.removesuffix(b"\n")
    line = line.removesuffix(b"\r") if line != value else line
    why = ""
    if len(line) < MIN_BYTES:
        why = f"a value of under {MIN_BYTES} bytes is too easy to guess, and to mistake for other text"
    elif len(line) > MAX_BYTES:
        why = f"the value is longer than {MAX_BYTES} bytes"
    elif b"\n" in line:
        why = "the value has more than one line"
    else:
        try:
            Secret(line)
        except ValueError as error:
            why = str(error)
    if why:
        del value, line
        raise NsharnessError(f"secret {ref}", why=why)
    return line, line != value
