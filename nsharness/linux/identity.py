"""On whose behalf nsharness runs: the invoking user, also under sudo."""

from __future__ import annotations

import os
import pwd
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from nsharness.errors import NsharnessError
from nsharness.frozen import frozen, replace
from nsharness.linux.process import file_access_as

# Above every range that distributions, systemd and container tools hand out (systemd's UIDS-GIDS document
# ends at 0x6FFFFFFF and warns of everything from 0x80000000 on).
_FREE_UIDS = range(0x7000_0000, 0x7FFF_FFFE)


@frozen
class Identity:
    """Whose files are used, and as whom the workload runs.

    ``owner_*`` is the person: state, secrets and profiles are theirs, and are opened with their rights.
    ``workload_*`` is who the workload is on the host: the same person, or, for root without a person
    behind it, an unprivileged uid that nobody else has. It is never 0.
    """

    privileged: bool
    owner_uid: int
    owner_gid: int
    owner_name: str
    home: Path
    workload_uid: int
    workload_gid: int
    workload_name: str = ""
    """The account that was chosen for the workload; empty when nobody chose one."""

    @property
    def drop_to(self) -> tuple[int, int] | None:
        """The uid and gid that helper processes change to, or None when we already are that user."""
        return (self.workload_uid, self.workload_gid) if self.privileged else None

    @contextmanager
    def files(self) -> Iterator[None]:
        """Within the block files are opened and created with the owner's rights."""
        with file_access_as(self.owner_uid, self.owner_gid):
            yield


def current(environ: Mapping[str, str] | None = None, user: str | None = None) -> Identity:
    """Who invoked us; root may say in ``user`` as whom the workload runs, as NAME, UID or UID:GID.

    ``NsharnessError`` for an installed-setuid program, a SUDO_UID that is no uid, and a ``user`` that is
    unknown, root, or somebody else when we are not root.
    """
    identity = _invoker(os.environ if environ is None else environ)
    return identity if user is None else _with_workload(identity, user)


def _invoker(environ: Mapping[str, str]) -> Identity:
    if os.getuid() != os.geteuid() or os.getgid() != os.getegid():
        raise NsharnessError(
            "refusing to run setuid or setgid",
            why=f"real uid {os.getuid()}, effective uid {os.geteuid()}",
            hint="install nsharness without the setuid bit and use sudo",
        )
    uid, gid = os.geteuid(), os.getegid()
    if uid != 0:
        name, home = _account(uid, environ)
        return Identity(False, uid, gid, name, home, uid, gid)
    sudo_uid, sudo_gid = _number(environ, "SUDO_UID"), _number(environ, "SUDO_GID")
    if sudo_uid:
        name, home = _account(sudo_uid, environ)
        sudo_gid = sudo_gid or _primary_group(sudo_uid)
        return Identity(True, sudo_uid, sudo_gid, name, home, sudo_uid, sudo_gid)
    name, home = _account(0, environ)
    own = _FREE_UIDS[int.from_bytes(os.urandom(8)) % len(_FREE_UIDS)]
    return Identity(True, 0, 0, name, home, own, own)


def _with_workload(identity: Identity, user: str) -> Identity:
    what = f"cannot run the workload as {user[:40]!r}"
    uid, gid, name = _chosen(user, what)
    if 0 in (uid, gid):
        raise NsharnessError(
            what, why="a workload is never root, nor in root's group", hint="name another user"
        )
    if not identity.privileged and uid != identity.workload_uid:
        raise NsharnessError(what, why="only root can choose", hint="run through sudo, or leave --user out")
    return replace(identity, workload_uid=uid, workload_gid=gid, workload_name=name)


def _chosen(user: str, what: str) -> tuple[int, int, str]:
    """uid, gid and name of NAME, UID or UID:GID. A uid without an account has the group of its number."""
    try:
        if not user[:1].isdigit():
            entry = pwd.getpwnam(user)
            return entry.pw_uid, entry.pw_gid, entry.pw_name
        first, colon, second = user.partition(":")
        uid = _id(first)
        gid = _id(second) if colon else None
    except (KeyError, ValueError):
        raise NsharnessError(
            what, why="there is no such user", hint="give a user's name, a uid, or uid:gid"
        ) from None
    try:
        entry = pwd.getpwuid(uid)
    except KeyError:
        return uid, uid if gid is None else gid, f"uid{uid}"
    return uid, entry.pw_gid if gid is None else gid, entry.pw_name


def _id(text: str) -> int:
    """A number that is a uid or gid, otherwise ``ValueError``."""
    # The length first: Python refuses to convert thousands of digits.
    if not (text.isascii() and text.isdigit()) or len(text) > 20 or int(text) >= 2**32 - 1:
        raise ValueError(text[:40])
    return int(text)


def _number(environ: Mapping[str, str], name: str) -> int:
    text = environ.get(name, "0")
    try:
        return _id(text)
    except ValueError:
        raise NsharnessError(
            f"{name} is no id", why=repr(text[:40]), hint=f"unset {name}, or run through sudo, which sets it"
        ) from None


def _account(uid: int, environ: Mapping[str, str]) -> tuple[str, Path]:
    try:
        entry = pwd.getpwuid(uid)
    except KeyError:
        # Under sudo the variable may still be root's: of no use to somebody else.
        home = environ.get("HOME", "") if uid == os.geteuid() else ""
        return f"uid{uid}", Path(home) if home.startswith("/") else Path("/nonexistent")
    return entry.pw_name, Path(entry.pw_dir)


def _primary_group(uid: int) -> int:
    try:
        return pwd.getpwuid(uid).pw_gid
    except KeyError:
        raise NsharnessError(
            f"no group is known for uid {uid}", why="SUDO_GID is not set", hint="run through sudo"
        ) from None
