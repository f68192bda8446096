"""What this kernel allows us, found out by trying it in a child process.

A probe is a function without arguments that returns a ``Result``. The tests, ``doctor`` and the message of a
run that cannot start use the same ones; a mechanism is chosen by probing, never by uid or by the name of a
distribution. As a program it prints the first step that is refused here, as JSON.
"""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Final

from nsharness.errors import ASK_DOCTOR
from nsharness.linux import chain, landlock, libc
from nsharness.linux.diagnosis import Failure, diagnose
from nsharness.linux.installation import bytecode_would_be_foreign
from nsharness.linux.surroundings import look_around

_EXPLAIN_SECONDS: Final = 20.0


@dataclass(frozen=True, slots=True)
class Result:
    """The outcome of one probe.

    ``why`` says what failed and how, ``hint`` what to do about it here; ``step`` and ``errno`` name the
    refused step of the chain. ``detail`` is what a probe that succeeded has to say, an ABI's version say.
    """

    ok: bool
    why: str = ""
    hint: str = ""
    step: str = ""
    errno: int = 0
    detail: str = ""


def _run(steps: Sequence[chain.Step], hint: str = "") -> Result:
    """Take the steps; for the first refused one the fixed ``hint``, or what ``diagnose`` says of it."""
    outcome = chain.attempt(steps)
    failure = outcome.failure
    if failure is None:
        return Result(True, detail=outcome.detail)
    why = f"{failure.step}: {outcome.why}"
    if not hint:
        found = diagnose(failure, look_around())
        why, hint = f"{why}: {found.cause}", found.remedy
    return Result(False, why, hint, failure.step, failure.errno)


def _landlock() -> str:
    abi = landlock.version()
    if abi < landlock.USABLE:
        raise OSError(errno.EOPNOTSUPP, f"only version {abi}")
    return f"ABI {abi}"


def _seccomp() -> None:
    # PR_GET_SECCOMP answers 0 when filters are possible, EINVAL when the kernel has none.
    libc.prctl(21)


def _pidfd() -> None:
    os.close(os.pidfd_open(os.getpid()))


def _chain(steps: Callable[[], Sequence[chain.Step]]) -> Callable[[], Result]:
    return lambda: _run(steps())


def _single(name: str, action: chain.Action, hint: str) -> Callable[[], Result]:
    return lambda: _run([(name, action)], hint)


PROBES: Mapping[str, Callable[[], Result]] = MappingProxyType(
    {
        "userns": _chain(chain.mount_namespace),
        "procfs": _chain(chain.processes),
        "veth": _chain(chain.network),
        "mount_setattr": _chain(chain.file_system),
        "pidfd": _single("pidfd", _pidfd, "use Linux 5.12 or newer"),
        "workload": _chain(chain.workload),
        "overlayfs": _chain(chain.overlay),
        "landlock": _single(
            "landlock",
            _landlock,
            "use Linux 5.19 or newer with landlock in its lsm= parameter (cat /proc/cmdline)",
        ),
        "seccomp": _single("seccomp", _seccomp, "use a kernel with CONFIG_SECCOMP_FILTER"),
    }
)
"""Every probe by name."""

REQUIRED: tuple[str, ...] = ("userns", "procfs", "veth", "mount_setattr", "pidfd", "workload", "seccomp")
"""Without these no sandbox starts."""


def remedy_here() -> str:
    """The remedy for the first step of the chain that this machine refuses; empty when it refuses none.

    In a process of its own: the caller may have threads, which cannot enter a user namespace, and may be
    undumpable, which cannot write its maps.
    """
    command = [
        sys.executable,
        "-I",
        *(["-B"] if bytecode_would_be_foreign() else []),
        "-m",
        "nsharness.linux.probe",
    ]
    try:
        done = subprocess.run(command, capture_output=True, timeout=_EXPLAIN_SECONDS, cwd="/")
        failure = json.loads(done.stdout)
        return diagnose(Failure(**failure), look_around()).remedy if failure else ""
    except (OSError, subprocess.TimeoutExpired, ValueError, TypeError):
        return ASK_DOCTOR


def main() -> int:
    """``python -I -m nsharness.linux.probe``: the first failure of the chain, as one JSON object."""
    for steps in (chain.workload, chain.network, chain.file_system):
        failure = chain.attempt(steps()).failure
        if failure is not None:
            break
    else:
        failure = None
    print(json.dumps(asdict(failure) if failure else {}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
