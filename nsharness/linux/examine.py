"""Every requirement and every optional layer, each with its state here, the consequence and the remedy.

Needs neither python-prctl nor mitmproxy: whether they are there is one of the questions.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from nsharness.errors import NsharnessError
from nsharness.linux import seccomp
from nsharness.linux.probe import PROBES, Result

type Level = Literal["green", "yellow", "red", "skipped"]

_LITTLE: Final = 64 << 20
_NOTHING: Final = 1 << 20
_NO_SANDBOX: Final = "no sandbox can start"
_CONTROLLERS: Final = ("memory", "pids", "cpu")
_CGROUPS: Final = Path("/sys/fs/cgroup")


@dataclass(frozen=True, slots=True)
class Check:
    """One line: ``finding`` is what is the case, ``consequence`` what follows, ``remedy`` what to do."""

    name: str
    level: Level
    finding: str
    consequence: str = ""
    remedy: str = ""
    required: bool = True
    step: str = ""
    errno: int = 0


def exit_code(checks: Iterable[Check]) -> int:
    """0: all is well; 1: it runs, with a layer less; 2: it cannot run."""
    levels = {check.level for check in checks}
    return 2 if "red" in levels else 1 if "yellow" in levels else 0


def examine(
    state: Path | None, files: Callable[[], AbstractContextManager[None]] = nullcontext
) -> tuple[Check, ...]:
    """All checks, requirements first. ``state`` is where runs are kept, accessed within ``files()``."""
    return (
        _python(),
        _kernel(),
        *_libraries(),
        *_chain(),
        _seccomp(),
        _program("bash", _NO_SANDBOX, required=True),
        *([_space("state", state, "no run can be recorded", files)] if state else []),
        _space("temporary files", Path(os.environ.get("TMPDIR") or "/tmp"), "programs may fail", nullcontext),
        _optional("overlayfs", "overlayfs", "workspace changes cannot be kept apart"),
        _optional("landlock", "Landlock", "a second layer of file protection is missing"),
        _cgroups(),
        _program("curl", "the demo's agent cannot fetch anything", required=False),
        _sudo(),
    )


def _python() -> Check:
    version = platform.python_version()
    usable = sys.implementation.name == "cpython" and sys.version_info[:2] >= (3, 12)
    if usable:
        return Check("Python", "green", f"{version}, {sys.executable}")
    return Check("Python", "red", version, "nsharness does not run", "use CPython 3.12 or newer")


def _kernel() -> Check:
    release = platform.release()
    result = PROBES["pidfd"]()
    if result.ok:
        return Check("kernel", "green", f"{release} {platform.machine()}")
    return Check("kernel", "red", f"{release}: {result.why}", _NO_SANDBOX, result.hint)


def _libraries() -> list[Check]:
    """python-prctl is loaded, because its library may be missing; the others, slow ones, only looked for."""
    checks = []
    try:
        import prctl  # noqa: F401
    except ImportError as error:
        text = "install libcap (Debian, Ubuntu: sudo apt-get install libcap2), or nsharness anew"
        checks.append(Check("python-prctl", "red", str(error), "nothing can be confined", text))
    else:
        checks.append(Check("python-prctl", "green", "loads"))
    # A folder that is left without its files still has a specification, but no origin.
    names = ("mitmproxy", "pyroute2", "nsharness_proxy")
    absent = [n for n in names if (spec := importlib.util.find_spec(n)) is None or spec.origin is None]
    if absent:
        text = "install nsharness anew, with its dependencies"
        checks.append(Check("packages", "red", f"missing: {', '.join(absent)}", _NO_SANDBOX, text))
    else:
        checks.append(Check("packages", "green", "installed"))
    return checks


def _chain() -> list[Check]:
    """One line for each part of the chain; what an earlier refusal keeps us from trying is skipped."""
    parts = {
        "user namespaces": "userns",
        "processes": "procfs",
        "workload's namespace": "workload",
        "file system": "mount_setattr",
        "network": "veth",
    }
    checks: list[Check] = []
    reported: set[str] = set()
    for name, probe in parts.items():
        result = PROBES[probe]()
        if result.ok:
            checks.append(Check(name, "green", "allowed"))
        elif result.step in reported:
            checks.append(Check(name, "skipped", f"not tried: {result.step} is refused"))
        else:
            reported.add(result.step)
            checks.append(_refused(name, result))
    return checks


def _refused(name: str, result: Result, consequence: str = _NO_SANDBOX, *, required: bool = True) -> Check:
    level: Level = "red" if required else "yellow"
    return Check(name, level, result.why, consequence, result.hint, required, result.step, result.errno)


def _optional(probe: str, name: str, consequence: str) -> Check:
    result = PROBES[probe]()
    if result.ok:
        return Check(name, "green", result.detail or "available", required=False)
    if result.step not in ("overlay", probe):
        return Check(name, "skipped", f"not tried: {result.step} is refused", required=False)
    return _refused(name, result, consequence, required=False)


def _seccomp() -> Check:
    """What both the kernel and the library must have: a sandbox without a filter is never started."""
    result = PROBES["seccomp"]()
    if not result.ok:
        return _refused("seccomp", result)
    try:
        seccomp.Library()
    except NsharnessError as error:
        return Check("seccomp", "red", error.why, _NO_SANDBOX, error.hint)
    return Check("seccomp", "green", "filters, libseccomp")


def _program(name: str, consequence: str, *, required: bool) -> Check:
    # Where the sandbox will look for it, whatever the caller's own path is.
    path = shutil.which(name, path="/usr/local/bin:/usr/bin:/bin")
    if path:
        return Check(name, "green", path, required=required)
    level: Level = "red" if required else "yellow"
    text = f"install {name} (Debian, Ubuntu: sudo apt-get install {name})"
    return Check(name, level, "not installed", consequence, text, required)


def _space(
    name: str, path: Path, consequence: str, files: Callable[[], AbstractContextManager[None]]
) -> Check:
    """Whether something can be written at ``path``, or where it would be made, and how much."""
    existing = path
    with files():
        try:
            while not os.path.lexists(existing):
                existing = existing.parent
            system = os.statvfs(existing)
            writable = os.access(existing, os.W_OK | os.X_OK, effective_ids=True)
        except OSError as error:
            return Check(name, "red", f"{path}: {error.strerror}", consequence, f"make {existing} accessible")
    free = system.f_bavail * system.f_frsize
    if not writable or not existing.is_dir():
        why = "read-only file system" if system.f_flag & os.ST_RDONLY else "not writable"
        variable = "XDG_STATE_HOME" if name == "state" else "TMPDIR"
        return Check(name, "red", f"{existing}: {why}", consequence, f"point {variable} to a folder of yours")
    text = f"{path}: {free >> 20} MiB free"
    if free < _NOTHING or (system.f_files and not system.f_favail):
        return Check(name, "red", text, consequence, "make room")
    if free < _LITTLE:
        return Check(name, "yellow", text, "long runs may fill it", "make room")
    return Check(name, "green", text)


def _cgroups() -> Check:
    """Which control groups there are and whether we may use them (cgroups(7))."""
    root = os.geteuid() == 0
    name, lost = "control groups", "limits hold for each process, not for the whole sandbox"
    if (_CGROUPS / "cgroup.controllers").exists():
        own = _own_group()
        present = _words(own / "cgroup.controllers")
        usable = [controller for controller in _CONTROLLERS if controller in present]
        if usable and os.access(own / "cgroup.procs", os.W_OK) and os.access(own, os.W_OK):
            return Check(name, "green", f"version 2, {', '.join(usable)} delegated", required=False)
        text = "start it with systemd-run --user --scope -p Delegate=yes nsharness …, or through sudo"
        return Check(name, "yellow", "version 2, nothing delegated", lost, text, False)
    usable = [controller for controller in _CONTROLLERS if os.access(_CGROUPS / controller, os.W_OK)]
    if root and usable:
        return Check(name, "green", f"version 1, {', '.join(usable)}", required=False)
    if any((_CGROUPS / controller).exists() for controller in _CONTROLLERS):
        text = "boot with systemd.unified_cgroup_hierarchy=1" if root else "run through sudo"
        return Check(name, "yellow", "version 1, not writable", lost, text, False)
    return Check(
        name, "yellow", "not mounted", lost, "mount them: sudo mount -t cgroup2 none /sys/fs/cgroup", False
    )


def _own_group() -> Path:
    try:
        lines = Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    path = next((line.removeprefix("0::") for line in lines if line.startswith("0::")), "/")
    return _CGROUPS / path.lstrip("/")


def _words(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="ascii").split()
    except OSError:
        return []


def _sudo() -> Check:
    if os.geteuid() == 0:
        return Check("sudo", "green", "not needed: we are root", required=False)
    path = shutil.which("sudo")
    # Nobody misses it where ordinary users may make namespaces; where not, that line says so.
    return Check(
        "sudo", "green", path or "not installed, and not needed where all above is allowed", required=False
    )
