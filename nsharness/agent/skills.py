"""A folder of skills, read from the host on behalf of a model, without ever leaving the folder.

A skill is a folder with a ``SKILL.md`` that begins with front matter (``name``, ``description``). A model
chooses which files are read, so every name is taken apart and walked one component at a time from a
descriptor of the folder, and no component may be a symbolic link (O_NOFOLLOW in open(2)): what
``RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS`` of openat2(2) would do, which Python does not offer.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from nsharness.errors import NsharnessError

MAX_READ: Final = 64 * 1024
"""Bytes of a file that one read returns at most."""
MAX_FILES: Final = 1000
"""Files in a skills folder at most; more is a folder that somebody named by mistake."""
MAX_TOTAL: Final = 64 * 1024 * 1024
"""Bytes in a skills folder at most."""
MAX_MATCHES: Final = 50
"""Lines that one search returns at most."""
_MAX_DEPTH: Final = 16
_MAX_LINE: Final = 240
_MAX_DESCRIPTION: Final = 1000


class SkillError(Exception):
    """A request that a model made and that cannot be met; the text is the answer it gets."""


@dataclass(frozen=True, slots=True)
class Skill:
    """One skill: its folder's name, and what its front matter says it is for."""

    name: str
    description: str


@dataclass(frozen=True, slots=True)
class Read:
    """The text of a file. ``cut`` is how many bytes of it are missing at the end."""

    text: str
    cut: int


class SkillFolder:
    """The skills under ``root``. ``NsharnessError`` when that is no folder, or cannot be read.

    ``as_owner`` is entered whenever something is opened: under sudo the folder is read with the rights of
    the person who named it.
    """

    def __init__(
        self, root: Path, *, as_owner: Callable[[], AbstractContextManager[None]] = nullcontext
    ) -> None:
        self._as_owner = as_owner
        with as_owner():
            # Links on the way to the folder are the user's own affair; from the folder on there are none.
            self._root = Path(os.path.realpath(root))
        with self._folder(()):
            pass

    def skills(self) -> list[Skill]:
        """Every folder with a ``SKILL.md``, by name; the description says so when that cannot be read."""
        with self._folder(()) as root:
            names = sorted(os.listdir(root))  # noqa: PTH208 (a descriptor)
        return [skill for name in names if (skill := self._skill(name)) is not None]

    def _skill(self, name: str) -> Skill | None:
        try:
            with self._folder((name,)) as folder:
                os.stat("SKILL.md", dir_fd=folder, follow_symlinks=False)
        except (SkillError, OSError):
            return None
        try:
            description = front_matter(self.read(name).text).get("description", "")
        except SkillError as error:
            description = f"unusable: {error}"
        return Skill(name, description[:_MAX_DESCRIPTION])

    def read(self, skill: str, path: str = "SKILL.md", limit: int = MAX_READ) -> Read:
        """A text file of a skill, at most ``limit`` bytes of it; ``SkillError`` when there is none."""
        parts = (*_components(skill), *_components(path))
        shown = "/".join(parts)
        if len(parts) > _MAX_DEPTH:
            raise SkillError(f"{shown} lies too deep")
        with self._file(parts) as descriptor:
            size = os.fstat(descriptor).st_size
            data = _read_at_most(descriptor, limit)
        if b"\0" in data:
            raise SkillError(f"{shown} is not text")
        cut = max(size - len(data), 0)
        try:
            return Read(_decode(data, at_end=not cut), cut)
        except UnicodeDecodeError:
            raise SkillError(f"{shown} is not text") from None

    def search(self, query: str) -> list[tuple[str, int, str]]:
        """Lines that contain ``query``, without regard to case: path, line number, line (bounded)."""
        wanted = query.casefold().strip()
        if not wanted:
            raise SkillError("an empty query matches everything; name a word")
        matches: list[tuple[str, int, str]] = []
        for parts, kind in self._entries():
            if kind != "file" or len(parts) < 2:
                continue
            try:
                text = self.read(parts[0], "/".join(parts[1:])).text
            except SkillError:
                continue
            for number, line in enumerate(text.splitlines(), 1):
                if wanted in line.casefold():
                    matches.append(("/".join(parts), number, line.strip()[:_MAX_LINE]))
                    if len(matches) == MAX_MATCHES:
                        return matches
        return matches

    def digest(self) -> str:
        """SHA-256 (hex) over the name, kind and content of everything in the folder that is not a folder."""
        total = hashlib.sha256()
        for parts, kind in self._entries():
            content = b""
            if kind == "file":
                with self._file(parts) as descriptor, open(descriptor, "rb", closefd=False) as stream:
                    content = hashlib.file_digest(stream, "sha256").digest()
            for field in (os.fsencode("/".join(parts)), kind.encode(), content):
                total.update(len(field).to_bytes(8, "big") + field)
        return total.hexdigest()

    def _entries(self) -> Iterator[tuple[tuple[str, ...], str]]:
        """All that is no folder, in a fixed order: its components, and ``file`` or ``other``."""
        files = size = 0
        pending: list[tuple[str, ...]] = [()]
        while pending:
            parts = pending.pop()
            try:
                with self._folder(parts) as folder:
                    names = sorted(os.listdir(folder))  # noqa: PTH208 (a descriptor)
                    found = [(name, os.stat(name, dir_fd=folder, follow_symlinks=False)) for name in names]
            except (SkillError, OSError) as error:
                raise NsharnessError(
                    f"cannot read the skills in {self._root}",
                    why=str(error),
                    hint="make every folder in it readable",
                ) from None
            for name, status in found:
                if stat.S_ISDIR(status.st_mode):
                    continue
                files, size = files + 1, size + status.st_size
                if files > MAX_FILES or size > MAX_TOTAL:
                    raise NsharnessError(
                        f"the skills folder {self._root} is too large",
                        why=f"more than {MAX_FILES} files or {MAX_TOTAL // 1024 // 1024} MiB",
                        hint="let skill_source name a folder that holds skills only",
                    )
                yield (*parts, name), "file" if stat.S_ISREG(status.st_mode) else "other"
            if len(parts) < _MAX_DEPTH - 1:
                pending += [(*parts, name) for name, status in found if stat.S_ISDIR(status.st_mode)]

    @contextmanager
    def _folder(self, parts: tuple[str, ...]) -> Iterator[int]:
        """A descriptor of the root or of a folder below it, and the owner's rights while it is used."""
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        with self._as_owner():
            try:
                descriptor = os.open(self._root, flags)
            except OSError as error:
                raise NsharnessError(
                    f"cannot read the skills in {self._root}",
                    why=error.strerror or "",
                    hint="correct skill_source in the profile",
                ) from None
            try:
                for part in parts:
                    try:
                        below = os.open(part, flags, dir_fd=descriptor)
                    except OSError:
                        raise SkillError(f"there is no skill folder {'/'.join(parts)}") from None
                    os.close(descriptor)
                    descriptor = below
                yield descriptor
            finally:
                os.close(descriptor)

    @contextmanager
    def _file(self, parts: tuple[str, ...]) -> Iterator[int]:
        """A descriptor of a regular file below the root, closed afterwards."""
        shown = "/".join(parts)
        with self._folder(parts[:-1]) as folder:
            try:
                # Looked at before it is opened: opening a device may already do something.
                status = os.stat(parts[-1], dir_fd=folder, follow_symlinks=False)
                if not stat.S_ISREG(status.st_mode):
                    raise SkillError(f"{shown} is not a regular file")
                # And if it was exchanged since, a FIFO does not block and a link is not followed.
                flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
                descriptor = os.open(parts[-1], flags, dir_fd=folder)
            except OSError:
                raise SkillError(f"there is no file {shown}") from None
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise SkillError(f"{shown} is not a regular file")
            yield descriptor
        finally:
            os.close(descriptor)


def front_matter(text: str) -> dict[str, str]:
    """The ``key: value`` lines between two ``---`` lines at the very beginning; {} when there are none."""
    lines = text.splitlines()
    if not lines or lines[0].strip() != "---":
        return {}
    matter: dict[str, str] = {}
    for line in lines[1:]:
        if line.strip() == "---":
            return matter
        key, colon, value = line.partition(":")
        if colon:
            matter[key.strip()] = value.strip()
    return {}


def _components(path: str) -> tuple[str, ...]:
    """The names in a relative path; ``SkillError`` for one that could lead out or means two things."""
    parts = tuple(path.split("/"))
    if any(part in ("", ".", "..") or not part.isprintable() or len(part) > 255 for part in parts):
        raise SkillError("a path is relative and has no empty, '.', '..', overlong or unprintable part")
    return parts


def _read_at_most(descriptor: int, limit: int) -> bytes:
    data = bytearray()
    while len(data) < limit and (part := os.read(descriptor, limit - len(data))):
        data += part
    return bytes(data)


def _decode(data: bytes, *, at_end: bool) -> str:
    """UTF-8; where the text was cut, up to three bytes of a character that was cut with it are left out."""
    for spare in range(1 if at_end else 4):
        try:
            return data[: len(data) - spare].decode()
        except UnicodeDecodeError as error:
            if at_end or error.start < len(data) - spare - 3:
                raise
    return data.decode()
