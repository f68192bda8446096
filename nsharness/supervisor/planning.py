"""From a profile to the plan of one sandbox: the only place where the two meet.

``nsharness plan`` and a run take the same way, so what is printed is what is carried out.
"""

from __future__ import annotations

import importlib.util
import itertools
import os
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

import nsharness
from nsharness.credentials.place import secrets_folder
from nsharness.errors import NsharnessError
from nsharness.frozen import frozen, replace
from nsharness.linux import open_files
from nsharness.linux.identity import Identity
from nsharness.plan.compose import Request, compose, protectable
from nsharness.plan.facts import HostFacts, gather
from nsharness.plan.limits import LimitPlan
from nsharness.plan.steps import Plan
from nsharness.supervisor.state import state_home

if TYPE_CHECKING:
    from nsharness.policy.shape import RunProfile

_GATEWAY_ADDRESS: Final = "10.127.0.1"
_PROXY_PORT: Final = 3128


@frozen
class Found:
    """What a plan must know of the host, as its owner sees it."""

    resolved: Mapping[str, str]
    """The paths that the profile names, and where they lead."""
    protect: tuple[str, ...]
    facts: HostFacts
    private: tuple[str, ...]


def look(profile: RunProfile, identity: Identity) -> Found:
    """Find it out, with the owner's rights. ``NsharnessError`` for a share that would let a workload change
    what runs on the host."""
    files = profile.files
    with identity.files():
        resolved = {
            path: _resolve(path, identity.home)
            for path in (*files.read_only, *files.read_write, *([files.workspace] if files.workspace else []))
        }
        workspace = resolved[files.workspace] if files.workspace else None
        protect = (*files.protect, *own_code_in(workspace, [resolved[path] for path in files.read_write]))
        inner = protectable(workspace, protect) if workspace and files.workspace_mode == "rw" else []
        facts = gather([*resolved.values(), *inner], hide=files.hide, shared=resolved.values())
        return Found(resolved, protect, facts, _private_paths(identity))


def plan_for(
    profile: RunProfile,
    identity: Identity,
    *,
    found: Found | None = None,
    sandbox: str,
    ca_pem: str,
    environment: Mapping[str, str],
    limits: LimitPlan,
    overlay: str,
    client: tuple[str, str] | None = None,
) -> Plan:
    """The plan, by what was ``found`` for it. ``NsharnessError`` for what cannot or must not be shared.

    ``environment`` comes from the proxy and the profile; ``overlay`` is where an overlay's layers are,
    ``client`` certificate and key that the workload shows the proxy.
    """
    root_itself = identity.privileged and identity.owner_uid == 0
    files = profile.files
    found = found or look(profile, identity)
    resolved = found.resolved
    request = Request(
        sandbox=sandbox,
        uid=identity.workload_uid,
        gid=identity.workload_gid,
        user=identity.workload_name or ("agent" if root_itself else identity.owner_name),
        home=str(identity.home),
        nameserver=_GATEWAY_ADDRESS,
        proxy_url=f"http://{_GATEWAY_ADDRESS}:{_PROXY_PORT}",
        ca_pem=ca_pem,
        client=client,
        workspace=resolved[files.workspace] if files.workspace else None,
        workspace_mode=files.workspace_mode,
        overlay=overlay,
        read_only=tuple(resolved[path] for path in files.read_only),
        read_write=tuple(resolved[path] for path in files.read_write),
        protect=found.protect,
        private=found.private,
        environment=environment,
        limits=limits,
        resolved={name: path for name, path in resolved.items() if name != path},
        user_namespaces=profile.user_namespaces,
    )
    return replace(compose(request, found.facts), open_files=open_files.INHERITED)


@cache
def own_code() -> tuple[str, ...]:
    """Where the code is that nsharness runs: packages, and the environment that they are installed in."""
    found = {Path(nsharness.__file__).parent, Path(sys.prefix), Path(sys.base_prefix)}
    for name in ("nsharness_proxy", "nsharness_mocks"):
        spec = importlib.util.find_spec(name)
        found |= {Path(each) for each in (spec.submodule_search_locations or ())} if spec else set()
    real = {Path(os.path.realpath(path)) for path in found}
    return tuple(sorted(str(path) for path in real if not real.intersection(path.parents)))


def own_code_in(workspace: str | None, read_write: Sequence[str]) -> list[str]:
    """What of our own code is in the workspace, relative to it: a workload that could write there would be
    run on the host, as the person, with the next command. ``NsharnessError`` for another share that has it
    inside and does not name it."""
    own = [path for path in own_code() if path not in read_write]
    for share, path in itertools.product(read_write, own):
        if Path(path).is_relative_to(share):
            raise NsharnessError(
                f"cannot share {share} for writing",
                why=f"nsharness runs from {path}, and whatever were written there would run on this machine",
                hint="share it as the workspace, or install nsharness elsewhere (uv tool install, pipx)",
            )
    if workspace is None:
        return []
    inside = [path for path in own if path != workspace and Path(path).is_relative_to(workspace)]
    return [os.path.relpath(path, workspace) for path in inside]


def _resolve(path: str, home: Path) -> str:
    """Where a path leads, once and for all; what it led to is what is checked and mounted."""
    if path == "~" or path.startswith("~/"):
        path = str(home) + path[1:]
    # A relative one, from a profile that is no file, is refused later: there is nothing it is relative to.
    return os.path.realpath(path) if path.startswith("/") else path


def _private_paths(identity: Identity) -> tuple[str, ...]:
    store = secrets_folder(identity.home, os.environ).parent
    return tuple(os.path.realpath(path) for path in (store, state_home(identity)))
