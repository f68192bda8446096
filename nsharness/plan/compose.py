"""Profile and host facts → plan. Pure: the same values give the same plan."""

from __future__ import annotations

import hashlib
import posixpath
from collections.abc import Iterable, Mapping
from typing import Final, Literal

from nsharness.errors import NsharnessError
from nsharness.frozen import field, frozen
from nsharness.plan import trust
from nsharness.plan.facts import ETC_ENTRIES, SYSTEM_DIRECTORIES, HostFacts
from nsharness.plan.limits import DEFAULT_TMP, LimitPlan
from nsharness.plan.places import parents as _parents
from nsharness.plan.places import within as _within
from nsharness.plan.steps import (
    Bind,
    Cover,
    Device,
    Devpts,
    Directory,
    File,
    Mask,
    Overlay,
    Plan,
    Proc,
    ReadOnly,
    Step,
    Symlink,
    Tmpfs,
)

MIB: Final = 1 << 20

HIDDEN_FILE: Final = "/etc/nsharness/hidden"
"""An empty file, put over files that are hidden; ``HIDDEN_DIRECTORY`` over directories."""
HIDDEN_DIRECTORY: Final = "/etc/nsharness/hidden.d"
CLIENT_CERTIFICATE: Final = "/etc/nsharness/client/cert.pem"
CLIENT_KEY: Final = "/etc/nsharness/client/key.pem"
"""What the workload shows the proxy where that is how it identifies itself; for the workload alone."""

# runc and crun mask and protect the same entries: they leak host state or act on the host.
_MASKED_PROC: Final = (
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
)
_READ_ONLY_PROC: Final = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")

_DEVICES: Final = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty")

_NEVER_SHARED: Final = (
    "/", "/boot", "/dev", "/etc", "/home", "/proc", "/root", "/run", "/sys", "/tmp", "/var", "/var/tmp"
)  # fmt: skip
# The workload's own file systems besides its home: only it can make something there.
_OWN_TREES: Final = ("/tmp", "/var/tmp", "/run")
# libcurl 7.88 (Debian 12) now and then stops for good in HTTP/2 once a window was full, before the last
# kilobyte: measured with pushes of 1.5 MB, one in ten, while the window was open and the proxy had taken all.
_GITCONFIG: Final = "[http]\n\tversion = HTTP/1.1\n"
_KIND_TEXTS: Final = {"symlink": "a symbolic link", "special": "a socket, a pipe or a device"}
_NO_HOME: Final = ("/proc", "/sys", "/dev", "/etc", "/boot", "/nonexistent")


@frozen
class Request:
    """What one sandbox is to be; everything not named here is absent from it."""

    sandbox: str
    uid: int
    gid: int
    user: str
    home: str
    nameserver: str
    proxy_url: str
    ca_pem: str = ""
    client: tuple[str, str] | None = field(default=None, shown=False)
    """The certificate that the workload shows the proxy, and its key; PEM."""
    cwd: str = "/tmp"
    workspace: str | None = None
    read_only: tuple[str, ...] = ()
    read_write: tuple[str, ...] = ()
    private: tuple[str, ...] = ()
    """Paths of the host that no share may hold or lie in: where secrets and the records of runs are."""
    environment: Mapping[str, str] = field(default_factory=dict)
    limits: LimitPlan = field(default_factory=LimitPlan)
    workspace_mode: Literal["rw", "ro", "overlay"] = "rw"
    overlay: str = ""
    """The directory for an overlay's layers, ``upper`` and ``work`` in it."""
    protect: tuple[str, ...] = ()
    """Paths below a writable workspace that are read-only where they exist."""
    resolved: Mapping[str, str] = field(default_factory=dict)
    user_namespaces: bool = False

    @property
    def tmp_size(self) -> int:
        """Bytes that each of the private file systems holds."""
        return self.limits.value("tmp", DEFAULT_TMP)


def compose(request: Request, facts: HostFacts) -> Plan:
    """The whole plan. ``NsharnessError`` for a path that must not, or cannot, be shared."""
    home = _home(request.home)
    made = {"/etc", "/etc/nsharness"}
    # What all sandboxes of a session have in common comes first: it can be done ahead.
    steps: list[Step] = [
        *_system(facts),
        *_etc(request, facts, home, made),
        Directory("/proc"),
        Proc(),
        *(Mask(path) for path in _MASKED_PROC),
        *(ReadOnly(path) for path in _READ_ONLY_PROC),
        *_dev(request),
        *_private(request, home),
        *_own(request),
        *trust.trusted(request.ca_pem, facts, made),
    ]
    taken = [step.path for step in steps if isinstance(step, Bind | Cover | Device | Devpts | Proc | Tmpfs)]
    # A share over the places of the run's authority would hide it as it would a mount.
    taken += trust.PLACES if request.ca_pem else ()
    shared = _shared(request, facts, home, taken)
    steps += [*shared, *_hidden(shared, facts), ReadOnly("/")]
    return Plan(
        sandbox=request.sandbox,
        hostname=request.sandbox[:63],
        uid=request.uid,
        gid=request.gid,
        cwd=request.workspace or request.cwd,
        environment=_environment(request, facts, home),
        steps=tuple(steps),
        limits=request.limits,
        resolved=request.resolved,
        user_namespaces=request.user_namespaces,
    )


def _home(home: str) -> str:
    """The person's own home path, empty in the sandbox; one of the system's own directories is not used."""
    clean = _normal(home)
    unusable = clean in _NEVER_SHARED or _within(clean, *SYSTEM_DIRECTORIES, *_NO_HOME)
    # What /etc/passwd cannot hold either.
    unusable = unusable or not clean.startswith("/") or ":" in clean or not clean.isprintable()
    return "/home/agent" if unusable else clean


def _normal(path: str) -> str:
    """``posixpath.normpath``, but two slashes at the beginning are one, as they are to the kernel."""
    clean = posixpath.normpath(path)
    return clean[1:] if clean.startswith("//") else clean


def _system(facts: HostFacts) -> list[Step]:
    steps: list[Step] = []
    for path in SYSTEM_DIRECTORIES:
        kind = facts.kind(path)
        if kind == "symlink":
            steps.append(Symlink(path, facts.entries[path].target))
        elif kind == "directory":
            steps += [Directory(path), Bind(path, path)]
    return steps


def _etc(request: Request, facts: HostFacts, home: str, made: set[str]) -> list[Step]:
    """``made`` are the directories that are there, and is added to."""
    steps: list[Step] = [
        Directory("/etc"),
        File("/etc/passwd", _passwd(request, home)),
        File("/etc/group", f"{request.user}:x:{request.gid}:\nnogroup:x:65534:\n"),
        File("/etc/resolv.conf", f"nameserver {request.nameserver}\noptions timeout:2 attempts:2\n"),
        File("/etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files dns\nservices: files\n"),
        File("/etc/gitconfig", _GITCONFIG),
        Directory("/etc/nsharness"),
    ]
    if facts.hidden:
        steps += [File(HIDDEN_FILE, ""), Directory(HIDDEN_DIRECTORY)]
    for path in ETC_ENTRIES:
        kind = facts.kind(path)
        if kind is None:
            continue
        steps += [Directory(parent) for parent in _parents(path, made)]
        if kind == "symlink":
            steps.append(Symlink(path, facts.entries[path].target))
        elif kind == "directory":
            steps += [Directory(path), Bind(path, path)]
        else:
            steps += [File(path, ""), Bind(path, path)]
    for path in facts.java_settings:
        steps += [Directory(path), Bind(path, path)]
    return steps


def _own(request: Request) -> list[Step]:
    """What no two sandboxes have in common."""
    steps: list[Step] = [
        File("/etc/hosts", f"127.0.0.1 localhost\n::1 localhost\n127.0.1.1 {request.sandbox[:63]}\n"),
        File("/etc/hostname", request.sandbox[:63] + "\n"),
        File("/etc/machine-id", _machine_id(request.sandbox) + "\n"),
    ]
    if request.client is not None:
        certificate, key = request.client
        folder = posixpath.dirname(CLIENT_KEY)
        steps += [
            Directory(folder),
            # Of its own, because the workload could make nothing beside it.
            Tmpfs(folder, size=MIB, mode=0o700, noexec=True),
            File(CLIENT_CERTIFICATE, certificate, mode=0o400, owned=True),
            File(CLIENT_KEY, key, mode=0o400, owned=True),
            ReadOnly(folder),
        ]
    return steps


def _passwd(request: Request, home: str) -> str:
    return (
        f"{request.user}:x:{request.uid}:{request.gid}::{home}:/bin/bash\n"
        "nobody:x:65534:65534::/nonexistent:/usr/sbin/nologin\n"
    )


def _machine_id(sandbox: str) -> str:
    """32 hexadecimal digits (machine-id(5)), as random as the sandbox's id; they tell nothing of the host."""
    return hashlib.sha256(b"machine-id of " + sandbox.encode()).hexdigest()[:32]


def _dev(request: Request) -> list[Step]:
    return [
        Directory("/dev"),
        *(Device(path) for path in _DEVICES),
        Symlink("/dev/fd", "/proc/self/fd"),
        Symlink("/dev/stdin", "/proc/self/fd/0"),
        Symlink("/dev/stdout", "/proc/self/fd/1"),
        Symlink("/dev/stderr", "/proc/self/fd/2"),
        Directory("/dev/pts"),
        Devpts(),
        Symlink("/dev/ptmx", "pts/ptmx"),
        Directory("/dev/shm"),
        Tmpfs("/dev/shm", size=min(256 * MIB, request.tmp_size), mode=0o1777, noexec=True),
    ]


def _private(request: Request, home: str) -> list[Step]:
    steps: list[Step] = [
        Directory("/tmp"),
        Tmpfs("/tmp", size=request.tmp_size, mode=0o1777),
        Directory("/var"),
        Directory("/var/tmp"),
        Tmpfs("/var/tmp", size=request.tmp_size, mode=0o1777),
        Directory("/run"),
        Tmpfs("/run", size=min(64 * MIB, request.tmp_size)),
    ]
    above = _parents(home, {*_OWN_TREES, "/var"})
    steps += [Directory(path, owned=_within(path, *_OWN_TREES)) for path in (*above, home)]
    return [*steps, Tmpfs(home, size=request.tmp_size, mode=0o700)]


def _shared(request: Request, facts: HostFacts, home: str, mounted: list[str]) -> list[Step]:
    """The paths that the profile names, outer ones first so that an inner one is not covered."""
    workspace = request.workspace
    wanted = [(path, False) for path in request.read_only] + [(path, True) for path in request.read_write]
    if workspace:
        wanted.append((workspace, request.workspace_mode != "ro"))
    protected = _protected(request, facts)
    steps: list[Step] = []
    made = {"/tmp", "/var", "/var/tmp", "/run", "/etc", *SYSTEM_DIRECTORIES, home}
    bound: list[str] = []
    for path, writable in sorted({*wanted, *protected}):
        _check_share(path, writable, request, mounted)
        kind = facts.kind(path)
        if kind not in ("directory", "file"):
            what = _KIND_TEXTS.get(kind or "", "absent, or not yours to read")
            raise NsharnessError(f"cannot share {path!r}", why=f"it is {what}", hint="name a real path")
        if not any(_within(path, outer) for outer in bound):
            own = _within(path, home, *_OWN_TREES)
            steps += [Directory(parent, owned=own) for parent in _parents(path, made)]
            steps.append(Directory(path, owned=own) if kind == "directory" else File(path, "", owned=own))
            made.add(path)
        if path == workspace and request.workspace_mode == "overlay":
            if kind != "directory":
                raise NsharnessError(f"cannot lay an overlay over {path!r}", why="it is no directory")
            steps.append(Overlay(path, path, f"{request.overlay}/upper", f"{request.overlay}/work"))
        else:
            steps.append(Bind(path, path, writable=writable))
        bound.append(path)
    return steps


def protectable(workspace: str, protect: Iterable[str]) -> list[str]:
    """What a plan must know about in a workspace: the protected paths and the directories above them."""
    paths = {posixpath.join(workspace, relative) for relative in protect}
    above = {parent for path in paths for parent in _parents(path, {workspace})}
    return sorted({*paths, *above})


def _protected(request: Request, facts: HostFacts) -> set[tuple[str, bool]]:
    """Binds, as path and whether writable, that keep the workload from what the host would run.

    A directory above a protected path is bound over itself: a place where something is mounted cannot be
    renamed or removed (rename(2), EBUSY), so that no other can take its name.
    """
    if not request.workspace or request.workspace_mode != "rw":
        return set()
    binds: set[tuple[str, bool]] = set()
    for relative in request.protect:
        path = posixpath.join(request.workspace, relative)
        asked = _within(path, *request.read_write, *request.read_only)
        if facts.kind(path) in ("directory", "file") and not asked and not _covered(path, facts):
            binds.add((path, False))
            binds |= {(parent, True) for parent in _parents(path, {request.workspace})}
        elif (parent := posixpath.dirname(path)) != request.workspace and facts.kind(parent) == "file":
            binds.add((parent, False))  # The .git of a worktree is a file that says where the hooks are.
    # Where one is protected as a whole, nothing in it is writable again.
    closed = [path for path, writable in binds if not writable]
    given = {*request.read_write, *request.read_only}
    return {
        (path, writable)
        for path, writable in binds
        if path not in given and not (writable and _within(path, *closed))
    }


def _covered(path: str, facts: HostFacts) -> bool:
    return any(_within(path, one) for one in facts.hidden)


def _hidden(shared: list[Step], facts: HostFacts) -> list[Step]:
    """Covers over what is hidden. ``NsharnessError`` for a share that is, or lies in, one."""
    places = [step.path for step in shared if isinstance(step, Bind | Overlay)]
    for path in places:
        if _covered(path, facts):
            raise NsharnessError(
                f"cannot share {path!r}", why="hide covers it", hint="change hide, or leave the share out"
            )
    covers: list[Step] = []
    outermost: list[str] = []
    for path in sorted(facts.hidden):
        if _within(path, *places) and not _within(path, *outermost):
            outermost.append(path)
            directory = facts.hidden[path] in ("directory", "unreadable")
            covers.append(Cover(path, HIDDEN_DIRECTORY if directory else HIDDEN_FILE))
    return covers


def _check_share(path: str, writable: bool, request: Request, mounted: list[str]) -> None:
    """``NsharnessError`` for what must not be shared, whatever it is on the host."""
    if _normal(path) != path or not path.startswith("/"):
        raise NsharnessError(
            f"cannot share {path!r}", why="it is no absolute, normal path", hint="write it out in full"
        )
    if path in _NEVER_SHARED or _within(path, "/proc", "/sys", "/dev"):
        raise NsharnessError(
            f"cannot share {path!r}",
            why="it belongs to the system, or holds more than a workload may see",
            hint="name a directory inside it",
        )
    if writable and _within(path, *SYSTEM_DIRECTORIES, "/etc", "/boot"):
        raise NsharnessError(
            f"cannot share {path!r} writable", why="it is a system path", hint="share it read-only"
        )
    kept = (_normal(request.home), *request.private)
    if any(_within(one, path) for one in kept) or _within(path, *request.private):
        raise NsharnessError(
            f"cannot share {path!r}",
            why="it holds your home directory, or what nsharness itself keeps there",
            hint="name a directory of the work alone",
        )
    if any(point != path and _within(point, path) for point in mounted):
        raise NsharnessError(
            f"cannot share {path!r}",
            why="it would cover parts of the sandbox",
            hint="name a directory inside it",
        )


def _environment(request: Request, facts: HostFacts, home: str) -> dict[str, str]:
    """Built from nothing: no variable of the caller is handed on unless the profile names it."""
    environment = {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": home,
        "USER": request.user,
        "LOGNAME": request.user,
        "SHELL": "/bin/bash",
        "LANG": "C.UTF-8",
        "TERM": "dumb",
        "TMPDIR": "/tmp",
    }
    # curl reads only the lower-case http_proxy, others only the upper-case form.
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        environment[name] = environment[name.upper()] = request.proxy_url
    environment["no_proxy"] = environment["NO_PROXY"] = "localhost,127.0.0.1,::1"
    environment["NODE_USE_ENV_PROXY"] = "1"
    environment |= trust.variables(request.ca_pem, facts)
    return {**environment, **request.environment}
