"""What surrounds this process and may forbid it namespaces, from where kernel and engines say so."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from nsharness.linux.diagnosis import SYSCTLS, Surroundings

_FILES: Final = {
    "docker": "/.dockerenv",
    "podman": "/run/.containerenv",
    "kubernetes": "/var/run/secrets/kubernetes.io",
}
_VARIABLES: Final = {
    "kubernetes": "KUBERNETES_SERVICE_HOST",
    "gitlab": "GITLAB_CI",
    "github": "GITHUB_ACTIONS",
}
_MANAGER: Final = "/run/systemd/container"
_NEEDED: Final = 1 << 21 | 1 << 12  # CAP_SYS_ADMIN, CAP_NET_ADMIN


def look_around(environ: Mapping[str, str] | None = None) -> Surroundings:
    """Read it all; what cannot be read counts as not there."""
    environ = os.environ if environ is None else environ
    status = dict(line.partition(":")[::2] for line in _read("/proc/self/status").splitlines())
    return Surroundings(
        root=os.geteuid() == 0,
        capable=int(status.get("CapEff", "0"), 16) & _NEEDED == _NEEDED,
        seccomp=status.get("Seccomp", "").strip() not in ("", "0"),
        sudo=os.geteuid() != 0 and shutil.which("sudo") is not None,
        ids=sum(int(line.split()[2]) for line in _read("/proc/self/uid_map").splitlines()),
        places=_places(environ),
        version=_read("/proc/version"),
        sysctls={name: text for name in SYSCTLS if (text := _read(f"/proc/sys/{name.replace('.', '/')}"))},
        command=own_command(),
    )


def own_label() -> str:
    """The security label of this process: an AppArmor profile with its mode, or an SELinux context."""
    return _read("/proc/self/attr/current").strip("\0\n ")


def own_command() -> str:
    """The console script that we were started as, or its name when it was something else."""
    script = sys.argv[0] if sys.argv else ""
    if os.path.basename(script) != "nsharness" or "/" not in script:  # noqa: PTH119 - plain text
        return "nsharness"
    return os.path.abspath(script)  # noqa: PTH100 - the link that was called, not where it leads


def _places(environ: Mapping[str, str]) -> frozenset[str]:
    found = {name for name, path in _FILES.items() if Path(path).exists()}
    found |= {name for name, variable in _VARIABLES.items() if environ.get(variable)}
    # systemd writes there which manager its container is from (systemd's CONTAINER_INTERFACE document).
    manager = environ.get("container", "") or _read(_MANAGER)
    if manager:
        found.add(manager if manager in ("docker", "podman", "lxc") else "container")
    return frozenset(found)


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
