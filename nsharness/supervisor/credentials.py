"""Credentials of a run: a sealed memory file that the supervisor holds and never reads."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from nsharness.credentials.nothing import empty_map
from nsharness.credentials.place import secrets_folder
from nsharness.errors import NsharnessError
from nsharness.frozen import frozen, replace
from nsharness.linux import fds
from nsharness.linux.identity import Identity
from nsharness.supervisor.early import Early
from nsharness.supervisor.resolving import Resolver

if TYPE_CHECKING:
    from nsharness.policy.shape import RunProfile


@frozen
class Ensured:
    """A secret that is made where it does not exist: ``prefix`` and 32 random characters."""

    name: str
    key: str
    prefix: str


@frozen
class Credentials:
    """What the resolver left: the sealed map, and everything about it but the values."""

    descriptor: int
    hosts: tuple[str, ...]
    headers: Mapping[str, tuple[str, ...]]
    digests: Mapping[str, str]
    """SHA-256 in hex of the secrets that were asked for, by ``name.key``."""
    kinds: Mapping[str, str]
    """The kind of each secret by ``name.key``, which is what a placeholder for it has to look like."""
    early: bool = False
    """Whether the proxy that was started early has this map."""

    def close(self) -> None:
        """Let go of the map."""
        fds.close_all([self.descriptor])

    def __enter__(self) -> Credentials:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def resolve(
    profile: RunProfile,
    identity: Identity,
    *,
    ensure: Sequence[Ensured] = (),
    digests: Sequence[tuple[str, str]] = (),
    early: Early | None = None,
) -> Credentials:
    """Let the resolver process fill in the profile's templates from the owner's secret store.

    ``early`` has the memory for the map, where a proxy was started with it. ``NsharnessError`` that names the
    rule, secret and key when one is missing; no run has been started then.
    """
    taken = None if early is None else early.take_map()
    content = fds.memfd("credentials") if taken is None else taken
    try:
        waiting = Early() if early is None or taken is None else early
        found = _resolved(profile, identity, ensure, digests, content, waiting)
        return replace(found, early=taken is not None)
    except BaseException:
        fds.close_all([content])
        raise


def _resolved(
    profile: RunProfile,
    identity: Identity,
    ensure: Sequence[Ensured],
    digests: Sequence[tuple[str, str]],
    content: int,
    early: Early,
) -> Credentials:
    if not (profile.sandbox_proxy_rules or ensure or digests):
        return _nothing(content, early)
    from nsharness.credentials.build import bindings_of

    bindings = bindings_of(profile)
    if not (bindings or ensure or digests):
        return _nothing(content, early)
    request: dict[str, Any] = {
        "store": str(secrets_folder(identity.home, os.environ)),
        "bindings": [binding.to_json() for binding in bindings],
        "digests": [list(pair) for pair in digests],
        "ensure": [{"name": e.name, "key": e.key, "prefix": e.prefix} for e in ensure],
    }
    if identity.privileged and identity.owner_uid != 0:
        request |= {"uid": identity.owner_uid, "gid": identity.owner_gid}
    reply = (early.take_resolver() or Resolver(content)).ask(request)
    if not fds.is_sealed(content):
        raise NsharnessError("cannot resolve the credentials", why="the map was not sealed")
    headers = {host: tuple(names) for host, names in reply["headers"].items()}
    return Credentials(content, tuple(reply["hosts"]), headers, reply["digests"], reply["kinds"])


def _nothing(content: int, early: Early) -> Credentials:
    """There is nothing to resolve, and so nothing that a process of its own would have to read."""
    early.dismiss_resolver()
    fds.write_all(content, empty_map())
    fds.seal(content)
    return Credentials(content, (), {}, {}, {})
