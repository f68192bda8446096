"""Finished turns in an SQLite file, keyed by everything that determines them.

No secret can be in it. The key is a digest. What is stored is what a turn brought out of the sandbox (an
answer, some files), where no secret ever was; and only values whose type is exactly ``str``, ``bytes`` or
``float`` are taken, so that a ``Secret`` handed over by mistake is a ``TypeError``, not a row.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sqlite3
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from pathlib import Path
from typing import Any, Final

from nsharness.agent.ports import Checkpoint
from nsharness.errors import NsharnessError

MAX_KEPT: Final = 200
"""Checkpoints that a file keeps; the oldest go first."""
BUSY_SECONDS: Final = 10.0
"""How long to wait for another process that is writing."""
_LAYOUT: Final = 1
_TABLES: Final = (
    """CREATE TABLE checkpoint(
        key TEXT PRIMARY KEY NOT NULL, name TEXT NOT NULL, answer TEXT NOT NULL,
        seconds REAL NOT NULL, created REAL NOT NULL)""",
    """CREATE TABLE file(
        key TEXT NOT NULL REFERENCES checkpoint(key) ON DELETE CASCADE,
        place INTEGER NOT NULL, path TEXT NOT NULL, data BLOB NOT NULL,
        PRIMARY KEY (key, place))""",
)


def checkpoint_key(
    *,
    profile: dict[str, Any],
    skills: str,
    prompt: str,
    model: str,
    tools: Sequence[str],
    version: str,
) -> str:
    """SHA-256 (hex) over everything that determines what a turn does, as far as nsharness can know it.

    ``profile``: its JSON form; where a mapped upstream listens is left out, it is another port every time.
    ``skills``: the digest of the skills folder. ``version``: of nsharness.
    """
    upstreams = sorted(profile.get("upstreams") or {})
    ingredients = {
        "profile": {**profile, "upstreams": upstreams},
        "skills": skills,
        "prompt": prompt,
        "model": model,
        "tools": list(tools),
        "version": version,
    }
    return hashlib.sha256(json.dumps(ingredients, sort_keys=True).encode()).hexdigest()


class CheckpointStore:
    """The checkpoints in one file, mode 0600, made with its folder (0700) when it is first needed.

    Several processes may use it at once. ``as_owner`` is entered around every access, ``owner`` is the uid
    that the file must belong to: under sudo both are the invoking user's. A file that cannot be used is an
    ``NsharnessError`` that says how to get rid of it.
    """

    def __init__(
        self,
        path: Path,
        *,
        owner: int | None = None,
        as_owner: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        self._path = path
        self._owner = os.geteuid() if owner is None else owner
        self._as_owner = as_owner

    def load(self, key: str) -> Checkpoint | None:
        """What was saved under ``key``, or None."""
        with self._database() as database:
            found = database.execute(
                "SELECT answer, seconds FROM checkpoint WHERE key = ?", (key,)
            ).fetchone()
            if found is None:
                return None
            query = "SELECT path, data FROM file WHERE key = ? ORDER BY place"
            files = tuple((path, data) for path, data in database.execute(query, (key,)))
        checkpoint = Checkpoint(found[0], files, found[1])
        if any(type(value) is not kind for value, kind in _values(key, "", checkpoint)):
            raise self._damaged("a value in it has the wrong type")
        return checkpoint

    def save(self, key: str, name: str, checkpoint: Checkpoint) -> None:
        """Keep ``checkpoint`` under ``key``; one that is there is replaced."""
        for value, kind in _values(key, name, checkpoint):
            if type(value) is not kind:
                raise TypeError(f"a checkpoint holds {kind.__name__}, not {type(value).__name__}")
        with self._database() as database:
            database.execute("DELETE FROM checkpoint WHERE key = ?", (key,))
            database.execute(
                "INSERT INTO checkpoint VALUES (?, ?, ?, ?, ?)",
                (key, name, checkpoint.answer, checkpoint.seconds, time.time()),
            )
            rows = [(key, place, path, data) for place, (path, data) in enumerate(checkpoint.files)]
            database.executemany("INSERT INTO file VALUES (?, ?, ?, ?)", rows)
            database.execute(
                "DELETE FROM checkpoint WHERE key NOT IN "
                "(SELECT key FROM checkpoint ORDER BY created DESC, rowid DESC LIMIT ?)",
                (MAX_KEPT,),
            )

    def forget(self, key: str) -> None:
        """Drop what was saved under ``key``, if anything was."""
        with self._database() as database:
            database.execute("DELETE FROM checkpoint WHERE key = ?", (key,))

    @contextmanager
    def _database(self) -> Iterator[sqlite3.Connection]:
        """One transaction, for whose length the file is ours (BEGIN IMMEDIATE).

        The connection is not kept: rollback journal and lock are then gone between two uses, and the file
        can be removed at any time. Write-ahead logging would want shared memory, which not every file
        system of a home folder has.
        """
        with self._as_owner():
            self._make_private()
            try:
                with closing(
                    sqlite3.connect(self._path, timeout=BUSY_SECONDS, isolation_level=None)
                ) as database:
                    database.execute("PRAGMA foreign_keys = ON")
                    database.execute("BEGIN IMMEDIATE")
                    self._prepare(database)
                    yield database
                    database.execute("COMMIT")
            except sqlite3.OperationalError as error:
                raise NsharnessError(
                    f"cannot use the checkpoint file {self._path}",
                    why=str(error),
                    hint=f"make room or wait for other runs; or rm {self._path}, it is only a cache",
                ) from None
            except sqlite3.DatabaseError as error:
                raise self._damaged(str(error)) from None

    def _prepare(self, database: sqlite3.Connection) -> None:
        (layout,) = database.execute("PRAGMA user_version").fetchone()
        if layout == _LAYOUT:
            return
        if layout != 0:
            raise self._damaged(f"it was written by another version of nsharness (layout {layout})")
        for statement in _TABLES:
            database.execute(statement)
        database.execute(f"PRAGMA user_version = {_LAYOUT:d}")

    def _make_private(self) -> None:
        """Create the file for us alone, or see that the one that is there is such a file."""
        what = f"cannot use the checkpoint file {self._path}"
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            # Never opened here: closing any descriptor of a file drops every lock that this process holds
            # on it (fcntl(2), record locks), also the one of a transaction in another thread.
            with contextlib.suppress(FileExistsError):
                os.mknod(self._path, stat.S_IFREG | 0o600)
            status = os.lstat(self._path)
        except OSError as error:
            raise NsharnessError(
                what, why=error.strerror or "", hint=f"see who owns {self._path.parent}"
            ) from None
        if not stat.S_ISREG(status.st_mode) or status.st_uid != self._owner:
            raise NsharnessError(what, why=f"it is no regular file of uid {self._owner}", hint="remove it")
        if status.st_mode & 0o077:
            raise NsharnessError(what, why="others may open it", hint=f"chmod 600 {self._path}")

    def _damaged(self, why: str) -> NsharnessError:
        return NsharnessError(
            f"cannot read the checkpoint file {self._path}",
            why=why,
            hint=f"rm {self._path}: it is only a cache, and is made again",
        )


def _values(key: str, name: str, checkpoint: Checkpoint) -> Iterator[tuple[object, type]]:
    yield from ((key, str), (name, str), (checkpoint.answer, str), (checkpoint.seconds, float))
    for path, data in checkpoint.files:
        yield from ((path, str), (data, bytes))
