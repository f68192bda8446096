"""What this kernel allows us, found out by trying it in a child process.

A probe is a function without arguments that returns a ``Result``. The tests and ``doctor`` use the same
ones; a mechanism is chosen by probing, never by uid or by the name of a distribution.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from nsharness.linux import libc, mounts, userns

USERNS_HINT = (
    "allow unprivileged user namespaces, or run through sudo "
    "(Ubuntu 24.04: sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0; "
    "Debian: sudo sysctl -w kernel.unprivileged_userns_clone=1; RHEL 7: raise user.max_user_namespaces; "
    "in a container: --security-opt seccomp=unconfined --security-opt apparmor=unconfined)"
)


@dataclass(frozen=True, slots=True)
class Result:
    """The outcome of one probe: ``why`` says what failed and how, ``hint`` what to do about it."""

    ok: bool
    why: str = ""
    hint: str = ""


def _enter_namespaces() -> None:
    """The whole chain: on Ubuntu 24.04 unshare succeeds and only a later step is refused."""
    if os.geteuid() != 0:
        userns.enter_new(os.CLONE_NEWNS | os.CLONE_NEWNET)
    else:
        os.unshare(os.CLONE_NEWNS | os.CLONE_NEWNET)
    libc.mount(None, "/", None, mounts.MS_REC | mounts.MS_SLAVE)
    libc.mount("tmpfs", "/tmp", "tmpfs", mounts.MS_NOSUID | mounts.MS_NODEV)


def _proc_in_new_pid_namespace() -> None:
    _enter_namespaces()
    os.unshare(os.CLONE_NEWPID | os.CLONE_NEWIPC | os.CLONE_NEWUTS | os.CLONE_NEWCGROUP)
    child = os.fork()
    if child == 0:
        try:
            libc.mount("proc", "/tmp", "proc", 0)
        except OSError as error:
            os._exit(error.errno or 1)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status:
        raise OSError(status, f"mounting a fresh /proc: {os.strerror(abs(status))}")


def _veth_pair() -> None:
    # Lazily: this is the one probe that needs netlink, and its module is slow to import.
    from nsharness.sandbox.gateway import create

    _enter_namespaces()
    gateway = create()
    gateway.close()


def _overlayfs() -> None:
    _enter_namespaces()
    for name in ("lower", "upper", "work", "merged"):
        Path("/tmp", name).mkdir()
    options = "lowerdir=/tmp/lower,upperdir=/tmp/upper,workdir=/tmp/work,userxattr"
    libc.mount("overlay", "/tmp/merged", "overlay", mounts.MS_NODEV, options)


def _mount_attributes() -> None:
    _enter_namespaces()
    descriptor = os.open("/usr", os.O_PATH)
    mounts.set_attributes(mounts.clone_tree(descriptor), read_only=True)


def _landlock() -> None:
    if libc.syscall(444, None, 0, 1) < 1:
        raise OSError(38, "no Landlock ABI")


def _seccomp() -> None:
    # PR_GET_SECCOMP answers 0 when filters are possible, EINVAL when the kernel has none.
    libc.prctl(21)


def _pidfd() -> None:
    os.close(os.pidfd_open(os.getpid()))


def _in_child(action: Callable[[], None], hint: str) -> Result:
    """Run ``action`` in a forked child, so that whatever it changes ends with it."""
    reading, writing = os.pipe2(os.O_CLOEXEC)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            action()
            code = 0
        except OSError as error:
            os.write(
                writing, f"{error.filename or action.__name__.strip('_')}: {error.strerror}".encode()[:500]
            )
        except Exception as error:  # noqa: BLE001 - whatever it was, the parent hears of it
            os.write(writing, f"{action.__name__.strip('_')}: {type(error).__name__}: {error}".encode()[:500])
        finally:
            os._exit(code)
    os.close(writing)
    with os.fdopen(reading, "rb") as stream:
        why = stream.read().decode(errors="replace")
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code == 0:
        return Result(True)
    return Result(False, why or f"the probe ended with status {code}", hint)


def _probe(action: Callable[[], None], hint: str) -> Callable[[], Result]:
    def run() -> Result:
        return _in_child(action, hint)

    return run


PROBES: Mapping[str, Callable[[], Result]] = MappingProxyType(
    {
        "userns": _probe(_enter_namespaces, USERNS_HINT),
        "procfs": _probe(
            _proc_in_new_pid_namespace,
            "in a container, give it an unmasked /proc (podman: --security-opt unmask=/proc); " + USERNS_HINT,
        ),
        "veth": _probe(_veth_pair, "load the veth module: sudo modprobe veth"),
        "mount_setattr": _probe(_mount_attributes, "nsharness needs Linux 5.12 or newer"),
        "pidfd": _probe(_pidfd, "nsharness needs Linux 5.3 or newer"),
        "overlayfs": _probe(_overlayfs, "workspace = overlay needs Linux 5.11 or newer"),
        "landlock": _probe(_landlock, "add landlock to the kernel's lsm= parameter"),
        "seccomp": _probe(_seccomp, "build the kernel with CONFIG_SECCOMP_FILTER"),
    }
)
"""Every probe by name."""

REQUIRED: tuple[str, ...] = ("userns", "procfs", "veth", "mount_setattr", "pidfd")
"""Without these no sandbox starts."""
