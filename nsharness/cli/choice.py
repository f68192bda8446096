"""Which profile a run has: the one that is named or found, with what the command line adds, or none."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

from nsharness.cli.profiles import additions, named, own_profile
from nsharness.errors import NsharnessError
from nsharness.frozen import frozen
from nsharness.linux.identity import Identity
from nsharness.linux.process import file_access_as
from nsharness.policy.plain import PlainFiles, PlainProfile
from nsharness.supervisor.trust import TrustStore, find_profile

if TYPE_CHECKING:
    from nsharness.policy.shape import RunProfile
    from nsharness.supervisor.amend import ProfileFile

_NAME: Final = "exec"
"""What a profile is called that nobody wrote."""


@frozen
class Choice:
    """The profile as it will be applied, the one that was written, and where that is, without links; None for
    none.
    ``writable`` is what the workload may write to."""

    profile: RunProfile
    written: RunProfile
    path: Path | None
    writable: tuple[Path, ...]

    def file(self, identity: Identity) -> ProfileFile | None:
        """The file that answers are written to."""
        if self.path is None:
            return None
        from nsharness.supervisor.amend import ProfileFile

        return ProfileFile.at(self.path, identity, self.writable)


def choose(options: argparse.Namespace, identity: Identity) -> Choice:
    """The profile that holds here, with what the command line adds."""
    cwd = _working_directory()
    shared = _Shared(
        tuple(map(_absolute, options.ro)),
        tuple(map(_absolute, options.rw)),
        None if options.no_workspace else cwd,
    )
    path, own = _holding(options, identity, cwd)
    if path is None and not (options.allow or options.inject or options.preset or options.ask):
        return _without_profile(shared, identity)
    return _with_profile(options, identity, cwd, path, own, shared)


@frozen
class _Shared:
    """What the command line shares: ``folder`` where the profile names no other workspace."""

    read_only: tuple[str, ...]
    read_write: tuple[str, ...]
    folder: str | None


def _without_profile(shared: _Shared, identity: Identity) -> Choice:
    folder = shared.folder if shared.folder is not None and _is_shareable(shared.folder, identity) else None
    files = PlainFiles(folder, shared.read_only, shared.read_write)
    profile = PlainProfile(_NAME, files)
    writable = (*shared.read_write, *([] if folder is None else [folder]))
    return Choice(profile, PlainProfile(_NAME), None, tuple(map(Path, writable)))


def _with_profile(
    options: argparse.Namespace,
    identity: Identity,
    cwd: str,
    path: Path | None,
    person: Path | None,
    shared: _Shared,
) -> Choice:
    options.early.prepare()
    from nsharness.policy.commandline import adjusted
    from nsharness.policy.load import load
    from nsharness.policy.narrowing import narrowed
    from nsharness.policy.profile import Profile

    loaded = None if path is None else load(path, identity.home)
    own = None
    if loaded is not None and person is not None:
        trusted = TrustStore(identity).is_trusted(loaded.path, loaded.digest)
        own = None if trusted else load(person, identity.home)
    profile = Profile(name=_NAME) if loaded is None else loaded.profile
    if loaded is not None and own is not None:
        profile = narrowed(own.profile, profile, str(loaded.path), cwd)
    files = profile.files
    update: dict[str, object] = {
        "read_only": (*files.read_only, *shared.read_only),
        "read_write": (*files.read_write, *shared.read_write),
    }
    if files.workspace is None and shared.folder is not None and _is_shareable(shared.folder, identity):
        update["workspace"] = shared.folder
    files = files.model_copy(update=update)
    shares = (*files.read_write, *([files.workspace] if files.workspace else []))
    writable = tuple(Path(each).expanduser() for each in shares)
    if believed := own or loaded:
        TrustStore(identity).check(believed.path, believed.digest, believed.files, writable)
    asking = {"network": profile.network.model_copy(update={"unknown": "ask"})} if options.ask else {}
    applied = adjusted(
        profile.model_copy(update={"workspace": None}),
        allow=options.allow,
        inject=options.inject,
        additions=additions(options.preset, identity),
        filesystem=files,
        **asking,
    )
    real = None if loaded is None else Path(os.path.realpath(loaded.path))
    return Choice(applied, profile, real, writable)


def _holding(options: argparse.Namespace, identity: Identity, cwd: str) -> tuple[Path | None, Path | None]:
    """The profile that is named, or found, or the person's own; and the latter once more where the first,
    unless it is trusted, may only take away from it."""
    if options.profile is not None:
        return named(options.profile, identity), None
    own = own_profile(identity)
    found = find_profile(Path(cwd), identity)
    if found is None or own is None:
        return found or own, None
    return found, own


def _absolute(path: str) -> str:
    return os.path.abspath(Path(path).expanduser())  # noqa: PTH100 - what links lead to is said by the plan


def _working_directory() -> str:
    try:
        return str(Path.cwd().resolve())
    except OSError as error:
        raise NsharnessError(
            "cannot use the working directory", why=error.strerror or "", hint="change to one that exists"
        ) from None


def _is_shareable(folder: str, identity: Identity) -> bool:
    """Whether the folder that we were started in is one of somebody's work, and not all that they have."""
    path = Path(folder)
    if identity.home.resolve().is_relative_to(path) or len(path.parts) < 3:
        return False
    try:
        with file_access_as(identity.workload_uid, identity.workload_gid):
            os.close(os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
    except OSError as error:
        raise NsharnessError(
            f"cannot share {folder} with the command",
            why=f"it runs as uid {identity.workload_uid}: {error.strerror}",
            hint="add --no-workspace, or start nsharness as the folder's owner",
        ) from None
    return True
