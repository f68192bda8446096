"""A zygote that leaves out named layers of its sandboxes: ``weak_zygote.py FLAW… --control-fd N``.

The product has no switch for that. This program takes the zygote's place in tests that show an attack to
succeed as soon as a layer is missing.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import prctl

from nsharness.linux import landlock, libc, process, seccomp, userns
from nsharness.sandbox import assemble, first, gateway, init, road, spawn, zygote

_MORE = frozenset({1, 13, 18})  # CAP_DAC_OVERRIDE, CAP_NET_RAW and CAP_SYS_CHROOT, as most containers have.
_PERMITTED, _AMBIENT_RAISE = 2, 2


def _nothing(*_: object, **__: object) -> None:
    """In the place of a layer."""


def _set(module: object, name: str, value: Any) -> None:
    setattr(module, name, value)


def no_seccomp() -> None:
    _set(seccomp, "install", _nothing)


def no_landlock() -> None:
    _set(landlock, "ruleset", _nothing)


def nested_user_namespaces() -> None:
    _set(userns, "forbid_nested", _nothing)


def no_user_namespace() -> None:
    """For the workload; without root the zygote still enters one. Together with ``forbid_nested``, which
    would otherwise change the setting of the namespace outside: root's is the host's."""
    nested_user_namespaces()
    entering = userns.enter_new
    # Only the zygote's own one has further flags.
    _set(userns, "enter_new", lambda flags=0: entering(flags) if flags else None)
    # Both need CAP_SETPCAP, which the workload's first process has in a user namespace of its own only.
    limiting = process.limit_bounding_set
    _set(process, "limit_bounding_set", lambda keep=None: limiting(keep) if keep else None)
    _set(process, "lock_securebits", _nothing)


def capabilities() -> None:
    """The workload keeps what the zygote has, and every program that it starts gets it too."""
    kept = zygote._KEPT | _MORE
    _set(zygote, "_KEPT", kept)
    setting = process.set_capabilities

    def keeping(keep: frozenset[int] = frozenset(), *, inheritable: bool = False) -> None:
        if keep == kept:
            setting(keep, inheritable=inheritable)

    def ambient() -> None:
        """In the workload's user namespace: the last moment at which it is possible."""
        had = _permitted()
        setting(had, inheritable=True)
        for capability in had:
            libc.prctl(47, _AMBIENT_RAISE, capability)  # PR_CAP_AMBIENT

    limiting = process.limit_bounding_set
    _set(process, "limit_bounding_set", lambda keep=None: limiting(keep) if keep else ambient())
    _set(process, "set_capabilities", keeping)
    _set(process, "become_keeping_capabilities", _become)
    _set(process, "lock_securebits", _nothing)


def _permitted() -> frozenset[int]:
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    (mask,) = (int(line.split()[1], 16) for line in lines if line.startswith("CapPrm"))
    return frozenset(number for number in range(64) if mask >> number & 1)


def _become(uid: int, gid: int) -> None:
    if os.getuid() == uid:
        return
    os.setgroups([])
    os.setresgid(gid, gid, gid)
    prctl.set_keepcaps(1)
    os.setresuid(uid, uid, uid)
    prctl.set_keepcaps(0)


def new_privileges() -> None:
    _set(process, "set_no_new_privs", _nothing)


def dumpable_init() -> None:
    """And traceable by whoever has its uid, also where Yama wants to be told (PR_SET_PTRACER in prctl(2))."""
    make = process.make_dumpable

    def stay() -> None:
        make()
        try:
            libc.prctl(0x59616D61, 0xFFFF_FFFF_FFFF_FFFF)
        except OSError:
            return  # There is no Yama.

    _set(process, "make_undumpable", stay)


def hosts_network() -> None:
    """The sandbox stays in the zygote's network, which is the host's. The gateway is made nevertheless, by a
    child, because without root there is no way back."""
    _set(road, "check", _nothing)
    _without_unshare(os.CLONE_NEWNET)
    entering = os.setns
    making = gateway.create

    def create(proxy_port: int) -> gateway.Gateway:
        gateway.datagrams()  # Found out here, once: each child would otherwise do it again.
        ours, theirs = socket.socketpair()
        with ours, theirs:
            pid = os.fork()
            if pid == 0:
                try:
                    _set(os, "setns", entering)
                    _set(gateway, "_own_netns_restored", contextlib.nullcontext)
                    made = making(proxy_port)
                    descriptors = [*made.listeners, made.gateway_netns, made.sandbox_netns]
                    socket.send_fds(theirs, [b"made"], descriptors)
                finally:
                    os._exit(0)
            theirs.close()
            _, descriptors, _, _ = socket.recv_fds(ours, 4, 7)
            os.waitpid(pid, 0)
        *listeners, gateway_netns, sandbox_netns = descriptors
        return gateway.Gateway(tuple(listeners), gateway_netns, sandbox_netns)

    _set(gateway, "create", create)
    _set(os, "setns", lambda fd, kind=0: None if kind == os.CLONE_NEWNET else entering(fd, kind))


def _without_unshare(kind: int) -> None:
    """Namespaces of this kind are still made for gateways, and for nothing else."""
    making = os.unshare
    _set(os, "unshare", lambda flags: making(flags if flags == kind else flags & ~kind))


def hosts_ipc() -> None:
    _set(first, "_NAMESPACES", first._NAMESPACES & ~os.CLONE_NEWIPC)


def hosts_processes() -> None:
    """No pid namespace; the plan must bind the host's procfs in the place of a new one."""
    _set(first, "_NAMESPACES", first._NAMESPACES & ~os.CLONE_NEWPID)
    no_user_namespace()
    entering = assemble.Root.enter

    def unprotected(root: assemble.Root) -> int:
        entering(root)
        return os.open("/", os.O_PATH | os.O_CLOEXEC)  # which the caller closes

    _set(assemble.Root, "enter", unprotected)


def callers_keys() -> None:
    _set(init, "_KEYCTL_JOIN_SESSION_KEYRING", 0x7FFF)  # There is no such operation.


def descriptors_stay() -> None:
    """What PID 1 holds goes to every program, with a directory of the host among it."""
    left = os.open("/", os.O_PATH | os.O_DIRECTORY)
    closing = spawn.close_all_but
    os.set_inheritable(left, True)
    _set(spawn, "close_all_but", lambda *keep: closing(*keep, left))


FLAWS: dict[str, Callable[[], None]] = {
    flaw.__name__: flaw
    for flaw in (
        no_seccomp,
        no_landlock,
        nested_user_namespaces,
        no_user_namespace,
        capabilities,
        new_privileges,
        dumpable_init,
        hosts_network,
        hosts_ipc,
        hosts_processes,
        callers_keys,
        descriptors_stay,
    )
}


if __name__ == "__main__":
    while sys.argv[1] in FLAWS:
        FLAWS[sys.argv.pop(1)]()
    sys.exit(zygote.main())
