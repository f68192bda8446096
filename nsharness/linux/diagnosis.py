"""Why this machine refuses a step, and the one thing to do about it.

``diagnose`` is a pure function of the step, its errno and what surrounds us. Distributions and container
engines forbid namespaces at different steps and with different errors: Ubuntu 24.04 lets ``unshare(2)``
succeed and refuses what follows, Docker has three layers of which each hides the next. So no remedy is a list
of all that may help somewhere: a reader gets the one that helps here.
"""

from __future__ import annotations

import errno
import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

_LOAD_PROFILE: Final = (
    "{} doctor --apparmor-profile | sudo tee /etc/apparmor.d/nsharness >/dev/null && "
    "sudo apparmor_parser -r /etc/apparmor.d/nsharness"
)
SYSCTLS: Final = (
    "kernel.apparmor_restrict_unprivileged_userns",
    "kernel.unprivileged_userns_clone",
    "user.max_user_namespaces",
    "user.max_mnt_namespaces",
    "user.max_net_namespaces",
    "user.max_pid_namespaces",
)
"""The settings that a diagnosis depends on; one that this kernel does not have is absent, not 0."""

# What has a limit of its own in namespaces(7), by step.
_LIMITS: Final = {
    "unshare-user": "user.max_user_namespaces",
    "workload": "user.max_user_namespaces",
    "unshare-mount": "user.max_mnt_namespaces",
    "unshare-net": "user.max_net_namespaces",
    "veth": "user.max_net_namespaces",
    "unshare-pid": "user.max_pid_namespaces",
}
_MAPS: Final = ("setgroups", "uid_map", "gid_map")
_REFUSED: Final = (errno.EPERM, errno.EACCES)

# All of an engine's layers at once: they hide each other, and would show one after the other.
_ENGINES: Final = {
    "kubernetes": "give the pod hostUsers: false, and its securityContext "
    "seccompProfile: {type: Unconfined}, appArmorProfile: {type: Unconfined} and procMount: Unmasked",
    "gitlab": 'in the runner\'s config.toml, below [runners.docker]: security_opt = ["seccomp=unconfined", '
    '"apparmor=unconfined", "systempaths=unconfined"]',
    "podman": "podman run --security-opt seccomp=unconfined --security-opt unmask=ALL "
    "--security-opt label=disable …",
    "docker": "docker run --security-opt seccomp=unconfined --security-opt apparmor=unconfined "
    "--security-opt systempaths=unconfined …",
    "lxc": "allow nesting for this container (LXD, Incus: security.nesting=true; Proxmox: nesting=1)",
    "container": "start this container without a seccomp filter, without an AppArmor profile and with an "
    "unmasked /proc",
}
_ROOT_NEEDS: Final = "SYS_ADMIN and NET_ADMIN"


@dataclass(frozen=True, slots=True)
class Failure:
    """A step that the kernel refused. ``label`` is what ``/proc/self/attr/current`` said right then."""

    step: str
    errno: int
    label: str = ""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a diagnosis depends on beside the failure itself.

    ``places`` holds the names of ``_ENGINES`` that left their mark here, and ``github`` for a GitHub runner.
    ``seccomp`` says whether a filter is in force, ``capable`` whether we have SYS_ADMIN and NET_ADMIN,
    ``ids`` how many user ids exist in our user namespace.
    """

    root: bool = False
    capable: bool = False
    seccomp: bool = False
    sudo: bool = False
    ids: int = 1 << 32
    places: frozenset[str] = frozenset()
    version: str = ""
    sysctls: Mapping[str, str] = field(default_factory=dict)
    command: str = "nsharness"
    """How this program is called, also by sudo, which replaces the path; a profile is for this very file."""

    @property
    def engine(self) -> str:
        """The innermost engine whose container we are in, or nothing."""
        return next((name for name in _ENGINES if name in self.places), "")


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """``name`` is the cause's short name, ``cause`` a clause about it, ``remedy`` what to do."""

    name: str
    cause: str
    remedy: str


def diagnose(failure: Failure, host: Surroundings) -> Diagnosis:
    """The one cause and remedy for a refused step of a sandbox's start."""
    if "-Microsoft" in host.version and "WSL2" not in host.version:
        return Diagnosis(
            "wsl1",
            "WSL 1 is no Linux kernel",
            "in Windows: wsl --set-version DISTRIBUTION 2 (wsl -l names it)",
        )
    if failure.errno in (errno.ENOSPC, errno.EUSERS):
        return _limit(failure, host)
    if failure.errno in _REFUSED:
        return _refused(failure, host)
    return _unsupported(failure)


def _limit(failure: Failure, host: Surroundings) -> Diagnosis:
    """namespaces(7): a limit of 0 and one that is used up are both "No space left on device"."""
    name = _LIMITS.get(failure.step, "user.max_user_namespaces")
    value = host.sysctls.get(name, "unknown")
    if value == "0" and host.engine:
        text = f"on the host or node: sysctl -w {name}=15000 (AWS Fargate does not offer it: run elsewhere)"
        return Diagnosis("limit-outside", f"{name} is 0", text)
    if value == "0":
        keep = f"echo {name}=15000 | sudo tee /etc/sysctl.d/90-nsharness.conf && sudo sysctl --system"
        return Diagnosis("limit", f"{name} is 0", keep)
    return Diagnosis(
        "limit-used-up",
        f"{name} is {value}: used up, or lower in a namespace around this one",
        f"end what holds namespaces (lsns lists them), or raise {name} outside",
    )


def _refused(failure: Failure, host: Surroundings) -> Diagnosis:
    label = failure.label
    creating = failure.step.startswith("unshare-")
    if host.root and not host.capable:
        return _without_capabilities(host)
    if host.root and failure.step == "workload" and host.ids < 2:
        text = "run as an ordinary user, or give this namespace a range of ids (newuidmap(1))"
        return Diagnosis("no-ids", "root here is alone in its user namespace, and no workload is root", text)
    if failure.step == "unshare-user" and host.sysctls.get("kernel.unprivileged_userns_clone") == "0":
        command = "sysctl -w kernel.unprivileged_userns_clone=1"
        text = f"on the host: {command}" if host.engine else _or_sudo(f"sudo {command}", host)
        return Diagnosis("userns-clone", "kernel.unprivileged_userns_clone is 0", text)
    if creating and host.seccomp:
        # A seccomp filter acts before any security module is asked.
        return _filtered(host)
    if _confined_by_restriction(label, host):
        return _restricted(host)
    if failure.step == "proc":
        return _covered_proc(host)
    if host.engine:
        cause = f"the container's profile {label} forbids it" if _named(label) else "the container forbids it"
        return Diagnosis("container", cause, _ENGINES[host.engine])
    if _is_selinux(label):
        text = "allow that domain user_namespace create (sudo ausearch -m avc -ts recent shows the denial)"
        return Diagnosis("selinux", f"SELinux forbids it to {label}", _or_sudo(text, host))
    if _named(label):
        text = f"allow userns, mounts and capabilities in that profile, or start {host.command} outside it"
        return Diagnosis("apparmor", f"the AppArmor profile {label} forbids it", text)
    if host.seccomp:
        return _filtered(host)
    text = "the kernel's log says what refused it (sudo dmesg | tail)"
    return Diagnosis("unknown", "a security module or a chroot forbids it", _or_sudo(text, host))


def _without_capabilities(host: Surroundings) -> Diagnosis:
    cause = f"root here has no {_ROOT_NEEDS}"
    match host.engine:
        case "docker" | "podman" as engine:
            flags = _ENGINES[engine].removeprefix(f"{engine} run ")
            return Diagnosis(
                "capabilities", cause, f"{engine} run --cap-add SYS_ADMIN --cap-add NET_ADMIN {flags}"
            )
        case "":
            text = f"start it with the capabilities {_ROOT_NEEDS}, or as an ordinary user"
        case engine:
            text = f"run as an ordinary user in the container, and {_ENGINES[engine]}"
    return Diagnosis("capabilities", cause, text)


def _filtered(host: Surroundings) -> Diagnosis:
    if host.engine:
        return Diagnosis(
            "container-seccomp", "the container's seccomp filter forbids it", _ENGINES[host.engine]
        )
    return Diagnosis(
        "seccomp",
        "a seccomp filter that we inherited forbids it",
        "start it from a plain shell, or lift the filter (systemd: RestrictNamespaces=no in the unit)",
    )


def _confined_by_restriction(label: str, host: Surroundings) -> bool:
    """Ubuntu's restriction: on, meant for us, and no other profile is what confines us."""
    restricted = host.sysctls.get("kernel.apparmor_restrict_unprivileged_userns", "0") != "0"
    return restricted and not host.root and (not _named(label) or "unprivileged_userns" in label)


def _restricted(host: Surroundings) -> Diagnosis:
    cause = "AppArmor restricts user namespaces (kernel.apparmor_restrict_unprivileged_userns)"
    command = "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0"
    if host.engine:
        return Diagnosis("restriction-outside", cause, f"on the host: sudo {command}")
    if "github" in host.places:
        return Diagnosis("restriction-github", cause, f"add a step to the workflow: sudo {command}")
    return Diagnosis("restriction", cause, _or_sudo(_LOAD_PROFILE.format(shlex.quote(host.command)), host))


def _covered_proc(host: Surroundings) -> Diagnosis:
    """A fresh procfs is refused while parts of the one that we see are covered (mount_namespaces(7))."""
    cause = "parts of /proc are covered, so that no fresh one may be mounted"
    text = _ENGINES.get(host.engine, "find them (findmnt -R /proc) and start from where they are not there")
    return Diagnosis("covered-proc", cause, text)


def _unsupported(failure: Failure) -> Diagnosis:
    why = os.strerror(failure.errno) if failure.errno else "it did not work"
    match failure.step, failure.errno:
        case (("unshare-user" | "workload"), (errno.EINVAL | errno.ENOSYS)):
            return Diagnosis(
                "no-userns", "the kernel has no user namespaces", "use a kernel with CONFIG_USER_NS"
            )
        case "veth", (errno.EOPNOTSUPP | errno.ENODEV | errno.ENOENT):
            return Diagnosis(
                "no-veth",
                "the kernel has no veth devices",
                "sudo modprobe veth (and put veth into /etc/modules-load.d/nsharness.conf)",
            )
        case (("attributes" | "beneath" | "pidfd"), errno.ENOSYS):
            return Diagnosis("old-kernel", "the kernel is too old", "use Linux 5.12 or newer")
        case "pivot", errno.EINVAL:
            text = "start it from a root file system of its own (an initramfs has none: use switch_root)"
            return Diagnosis("initramfs", "the root file system cannot be exchanged", text)
        case "overlay", (errno.ENODEV | errno.EINVAL | errno.EPERM):
            text = "use Linux 5.11 or newer with overlayfs (sudo modprobe overlay)"
            return Diagnosis("no-overlay", "the kernel has no overlayfs for user namespaces", text)
    return Diagnosis("unknown", why, f"a kernel with what {failure.step} needs; namespaces(7) names it")


def _or_sudo(text: str, host: Surroundings) -> str:
    return f"{text} — or run it as root: sudo {shlex.quote(host.command)} …" if host.sudo else text


def _named(label: str) -> bool:
    """Whether an AppArmor profile confines us; ``name (unconfined)`` is a profile that does not."""
    plain = label in ("", "unconfined", "kernel") or label.endswith("(unconfined)")
    return not plain and not _is_selinux(label)


def _is_selinux(label: str) -> bool:
    return label.count(":") >= 2 and "//" not in label and " " not in label
