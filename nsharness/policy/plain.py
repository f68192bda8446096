"""The profile of a run that nobody wrote one for: nothing can be reached, and some folders are shared.

There is nothing to validate, so it is made without what reads and validates profiles: importing that takes
as long as everything else before a sandbox starts. Each of its answers is that of a ``Profile`` with the
same in it, which ``written_out`` gives.
"""

from __future__ import annotations

from nsharness.frozen import frozen
from nsharness.policy.filesystem import PROTECTED

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from nsharness.credentials.build import TemplateRule
    from nsharness.credentials.secret import SecretRef
    from nsharness.policy.filesystem import WorkspaceMode
    from nsharness.policy.model import Engine, ProxyAuth, Unknown
    from nsharness.policy.profile import Profile
    from nsharness.policy.shape import RunProfile


@frozen
class PlainFiles:
    """What is shared: see ``FilesystemSettings``."""

    workspace: str | None = None
    read_only: tuple[str, ...] = ()
    read_write: tuple[str, ...] = ()

    workspace_mode: WorkspaceMode = "rw"
    hide: tuple[str, ...] = ()
    protect: tuple[str, ...] = PROTECTED


@frozen
class PlainProfile:
    """A name and some shared folders."""

    name: str
    files: PlainFiles = PlainFiles()

    @property
    def upstream_ca(self) -> str | None:
        """None."""
        return None

    @property
    def sandbox_proxy_rules(self) -> tuple[TemplateRule, ...]:
        """None at all."""
        return ()

    @property
    def proxy_auth(self) -> ProxyAuth:
        """See ``ProxySettings``."""
        return "listener"

    @property
    def unknown(self) -> Unknown:
        """See ``NetworkSettings``."""
        return "deny"

    @property
    def served_by(self) -> Engine:
        """See ``Policy``."""
        return "fast"

    @property
    def user_namespaces(self) -> bool:
        """See ``PrivilegeSettings``."""
        return False

    def limit_values(self) -> dict[str, int | float | bool | None]:
        """See ``Profile``."""
        absent = dict.fromkeys(("memory", "pids", "cpu", "open_files", "wall", "output"))
        return {**absent, "tmp": 1 << 30, "best_effort": False}

    def environment(self, _: Callable[[SecretRef], str]) -> dict[str, str]:
        """Nothing."""
        return {}

    def policy_json(self, upstreams: Mapping[str, str]) -> dict[str, Any]:
        """See ``Profile``."""
        if upstreams:
            return written_out(self).policy_json(upstreams)
        return {
            "profile": self.name,
            "rules": [],
            "upstreams": {},
            "proxy_auth": self.proxy_auth,
            "stray_placeholders": "block",
            "engine": "fast",
            "unknown": self.unknown,
            "ask_seconds": 60,
            "only": None,
        }


def written_out(profile: RunProfile) -> Profile:
    """The profile as it would have been read from a file. One that was is given back as it is."""
    from nsharness.policy.profile import Profile
    from nsharness.policy.sharing import FilesystemSettings

    if isinstance(profile, Profile):
        return profile
    files = profile.files
    shared = {"workspace": files.workspace, "read_only": files.read_only, "read_write": files.read_write}
    written = {name: value for name, value in shared.items() if value}
    if not written:
        return Profile(name=profile.name)
    # As they are: those of a command line may be called whatever a file may.
    return Profile(name=profile.name, filesystem=FilesystemSettings().model_copy(update=written))
