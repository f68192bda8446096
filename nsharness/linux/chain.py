"""The start of a sandbox, step by step, tried out in a child process.

The same calls in the same order as the zygote and PID 1 make them. The chain has to be tried to its end: on
Ubuntu 24.04 ``unshare(2)`` succeeds, and a uid map, an address or a mount is refused later; in a container
the three layers show one after the other. Everything that a step makes ends with the child.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib
import json
import os
import socket
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from nsharness.linux import libc, mounts, userns
from nsharness.linux.diagnosis import Failure
from nsharness.linux.surroundings import own_label

type Action = Callable[[], str | None]
type Step = tuple[str, Action]

_BASE: Final = "/tmp"
_SIOCGIFFLAGS: Final = 0x8913
_SIOCSIFFLAGS: Final = 0x8914
_RTM_NEWADDR: Final = 20
_NLM_F_REQUEST_ACK_CREATE_EXCL: Final = 0x1 | 0x4 | 0x400 | 0x200
_NOBODY: Final = 65534
_MAP_FILES: Final = frozenset({"setgroups", "uid_map", "gid_map"})
_REPORT_BYTES: Final = 2000


@dataclass(frozen=True, slots=True)
class Outcome:
    """How far a list of steps came: without ``failure`` to its end; ``detail`` is what the last one said."""

    failure: Failure | None = None
    why: str = ""
    detail: str = ""


def attempt(steps: Sequence[Step]) -> Outcome:
    """Take the steps in a forked child, up to the first that is refused."""
    reading, writing = os.pipe2(os.O_CLOEXEC)
    child = os.fork()
    if child == 0:
        _take(steps, writing)
    os.close(writing)
    with os.fdopen(reading, "rb") as stream:
        report = stream.read()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    try:
        written = json.loads(report)
    except ValueError:
        return Outcome(Failure(steps[0][0], 0), f"the probe ended with status {status}")
    if "step" not in written:
        return Outcome(detail=str(written["detail"]))
    failure = Failure(str(written["step"]), int(written["errno"]), str(written["label"]))
    return Outcome(failure, str(written["why"]))


def _take(steps: Sequence[Step], report: int) -> None:
    """In the child; never returns. A step may fork: one of the two then ends in ``_go_on_in_child``."""
    name = steps[0][0]
    try:
        detail: str | None = None
        for step in steps:
            name, action = step
            detail = action()
        _write(report, {"detail": detail or ""})
    except OSError as error:
        file = os.path.basename(str(error.filename or ""))  # noqa: PTH119 - plain text
        refused = file if file in _MAP_FILES and name != "workload" else name
        why = f"{error.filename}: {error.strerror}" if error.filename else f"{error.strerror}"
        _write(report, {"step": refused, "errno": error.errno or 0, "why": why, "label": own_label()})
    except Exception as error:  # noqa: BLE001 - whatever it was, the parent hears of it
        _write(report, {"step": name, "errno": 0, "why": f"{type(error).__name__}: {error}", "label": ""})
    finally:
        os._exit(0)


def _write(report: int, message: dict[str, object]) -> None:
    if isinstance(why := message.get("why"), str):
        message["why"] = why[:_REPORT_BYTES]
    os.write(report, json.dumps(message).encode())


def user_namespace() -> list[Step]:
    """What an ordinary user needs first; root enters its first user namespace only with the workload."""
    if os.geteuid() == 0:
        return []
    uid, gid = os.geteuid(), os.getegid()
    return [
        ("unshare-user", lambda: os.unshare(os.CLONE_NEWUSER)),
        ("uid_map", lambda: userns.map_only(uid, gid)),
    ]


def mount_namespace() -> list[Step]:
    """A mount namespace of our own, and a file system in it."""
    return [
        *user_namespace(),
        ("unshare-mount", lambda: os.unshare(os.CLONE_NEWNS)),
        ("slave", lambda: libc.mount(None, "/", None, mounts.MS_REC | mounts.MS_SLAVE)),
        ("tmpfs", lambda: libc.mount("tmpfs", _BASE, "tmpfs", mounts.MS_NOSUID | mounts.MS_NODEV)),
    ]


def network() -> list[Step]:
    """A network namespace in which something can be configured, and the airlock."""
    return [
        *user_namespace(),
        ("unshare-net", lambda: os.unshare(os.CLONE_NEWNET)),
        ("loopback", _loopback_up),
        ("address", _add_address),
        ("veth", _airlock),
    ]


def processes() -> list[Step]:
    """PID 1 of its own, with a fresh ``/proc``."""
    flags = os.CLONE_NEWPID | os.CLONE_NEWIPC | os.CLONE_NEWUTS | os.CLONE_NEWCGROUP
    return [
        *mount_namespace(),
        ("unshare-pid", lambda: os.unshare(flags)),
        ("fork", _go_on_in_child),
        ("proc", lambda: libc.mount("proc", _BASE, "proc", mounts.MS_NOSUID | mounts.MS_NODEV)),
    ]


def file_system() -> list[Step]:
    """Binds with attributes of their own, places that are found without symbolic links, and a new root."""
    return [
        *mount_namespace(),
        ("attributes", _bind_read_only),
        ("beneath", _open_beneath),
        ("pivot", lambda: mounts.pivot_root(_BASE)),
    ]


def workload() -> list[Step]:
    """The workload's own user namespace, inside all others."""
    if os.geteuid() == 0:
        # Now: at its step the folder that nsharness is in may be covered. What is missing is said then.
        with contextlib.suppress(ImportError):
            importlib.import_module("nsharness.linux.process")
    return [*processes(), ("workload", _enter_workload_namespace)]


def overlay() -> list[Step]:
    """overlayfs, mounted without being root on the host."""
    return [*mount_namespace(), ("overlay", _mount_overlay)]


def _go_on_in_child() -> None:
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        os._exit(0)


def _loopback_up() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        request = struct.pack("16sH14x", b"lo", 0)
        flags = struct.unpack_from("=H", fcntl.ioctl(sock, _SIOCGIFFLAGS, request), 16)[0]
        fcntl.ioctl(sock, _SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", flags | 1))


def _add_address() -> None:
    """RTM_NEWADDR (rtnetlink(7)); written out, because the gateway's netlink library is slow to import."""
    address = socket.inet_aton("127.0.0.2")
    attributes = struct.pack("=HH4s", 8, 1, address) + struct.pack("=HH4s", 8, 2, address)
    body = struct.pack("=BBBBI", socket.AF_INET, 8, 0, 254, 1) + attributes
    header = struct.pack("=IHHII", 16 + len(body), _RTM_NEWADDR, _NLM_F_REQUEST_ACK_CREATE_EXCL, 1, 0)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as sock:
        sock.sendto(header + body, (0, 0))
        code = struct.unpack_from("=i", sock.recv(4096), 16)[0]
    if code:
        raise OSError(-code, f"RTM_NEWADDR: {os.strerror(-code)}")


def _airlock() -> None:
    # Lazily: this is the one step that needs the netlink library.
    from nsharness.sandbox.gateway import create

    create().close()


def _bind_read_only() -> None:
    mounts.set_attributes(mounts.clone_tree(os.open("/usr", os.O_PATH)), read_only=True)


def _open_beneath() -> None:
    how = struct.pack("=QQQ", os.O_PATH, 0, 0x08 | 0x04)  # RESOLVE_BENEATH, RESOLVE_NO_SYMLINKS: openat2(2)
    base = os.open("/", os.O_PATH)
    libc.syscall(437, base, b"usr", how, len(how))


def _enter_workload_namespace() -> None:
    if os.geteuid() == 0:
        from nsharness.linux import process

        process.become_keeping_capabilities(_NOBODY, _NOBODY)
        process.make_dumpable()
    userns.enter_new()


def _mount_overlay() -> None:
    for name in ("lower", "upper", "work", "merged"):
        Path(_BASE, name).mkdir()
    options = f"lowerdir={_BASE}/lower,upperdir={_BASE}/upper,workdir={_BASE}/work,userxattr"
    libc.mount("overlay", f"{_BASE}/merged", "overlay", mounts.MS_NODEV, options)
