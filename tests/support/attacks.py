"""Attacks from inside: each is tried in a sandbox as it is, and in one that lacks what stops it.

A test that only sees an attack fail proves little: it may fail because it is badly written. So the same
script must come to ``ESCAPED`` where a named part of the confinement is left out.
"""

from __future__ import annotations

import ctypes
import functools
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from nsharness.linux.identity import Identity
from nsharness.plan import syscalls
from nsharness.plan.steps import Plan, Step
from nsharness.supervisor import planning, sandbox
from nsharness.supervisor.session import Session
from tests.support.sandboxes import Box, opened_box, opened_session

ESCAPED = "ESCAPED"
CANARY = "canary-e5c4"
"""What every secret of the tests' person is."""
SOMEBODY = 4711
"""The uid of that person, where root tests."""
SECRET_FILES = (
    ".ssh/id_ed25519",
    ".netrc",
    ".bash_history",
    ".aws/credentials",
    ".config/gh/hosts.yml",
    ".docker/config.json",
    ".kube/config",
)
_WEAK_ZYGOTE = str(Path(__file__).with_name("weak_zygote.py"))
_MACHINES_NAMES = (
    *syscalls.ALLOWED,
    *syscalls.REFUSED,
    "clone3",
    "personality",
)


@dataclass(frozen=True)
class Weakness:
    """What a weakened sandbox lacks: flaws of ``tests.support.weak_zygote``, and what becomes of the plan."""

    name: str
    """Under which its sandbox is kept: within a module no two have the same."""
    flaws: tuple[str, ...] = ()
    replan: Callable[[Plan], Plan] | None = field(default=None, compare=False)
    profile: tuple[tuple[str, Any], ...] = ()
    """What its profile says instead."""


def weakness(*flaws: str) -> Weakness:
    """One in which layers are left out."""
    return Weakness("+".join(flaws), flaws)


def with_plan(name: str, replan: Callable[[Plan], Plan], *flaws: str) -> Weakness:
    """One with another plan, and maybe with layers left out."""
    return Weakness(name, flaws, replan)


PRIVILEGED = ("no_seccomp", "no_landlock", "no_user_namespace", "capabilities", "new_privileges")
"""The flaws that together leave the workload what the zygote has."""


def without(kind: type, *paths: str) -> Callable[[Plan], Plan]:
    """A change of plan: there are no steps of that kind for those paths; for any if none is named."""

    def change(plan: Plan) -> Plan:
        kept = tuple(
            step
            for step in plan.steps
            if not (isinstance(step, kind) and (not paths or getattr(step, "path", "") in paths))
        )
        assert kept != plan.steps, f"the plan has no such step: {kind.__name__} {paths}"
        return replace(plan, steps=kept)

    return change


def changing(change: Callable[[Step], Step]) -> Callable[[Plan], Plan]:
    """A change of plan: each step becomes what the function makes of it; one must become another."""

    def changed(plan: Plan) -> Plan:
        steps = tuple(map(change, plan.steps))
        assert steps != plan.steps, "the plan has no such step"
        return replace(plan, steps=steps)

    return changed


def adding(*steps: Step) -> Callable[[Plan], Plan]:
    """A change of plan: there are more steps, before the root becomes read-only."""
    return lambda plan: replace(plan, steps=(*plan.steps[:-1], *steps, plan.steps[-1]))


@contextmanager
def weak_session(folder: Path, flaws: tuple[str, ...], identity: Identity | None = None) -> Iterator[Session]:
    """A session whose zygote leaves these layers out."""
    started = subprocess.Popen

    def start(argv: list[str], **options: Any) -> Any:
        if "nsharness.sandbox.zygote" in argv:
            at = argv.index("-m")
            argv = [*argv[:at], _WEAK_ZYGOTE, *flaws, *argv[at + 2 :]]
        return started(argv, **options)

    with ExitStack() as stack:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(subprocess, "Popen", start)
            session = stack.enter_context(opened_session(folder, identity))
        yield session


@contextmanager
def weak_box(session: Session, weak: Weakness, **profile: Any) -> Iterator[Box]:
    """A sandbox with a plan that is weak in that way."""
    with ExitStack() as stack:
        with pytest.MonkeyPatch.context() as patch:
            if weak.replan is not None:
                original, replan = planning.plan_for, weak.replan
                patch.setattr(sandbox, "plan_for", lambda *a, **k: replan(original(*a, **k)))
            box = stack.enter_context(opened_box(session, **{**profile, **dict(weak.profile)}))
        yield box


class Assault:
    """Tries attacks: in the confined sandbox and in weakened ones, which are opened when first needed."""

    def __init__(self, folder: Path, identity: Identity | None = None, **profile: Any) -> None:
        self._folder = folder
        self._identity = identity
        self._profile = profile
        self._stack = ExitStack()
        self._sessions: dict[tuple[str, ...], Session] = {}
        self._boxes: dict[str, Box] = {}
        self._interpreter = ""

    def __enter__(self) -> Assault:
        self.box()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def session(self, flaws: tuple[str, ...] = ()) -> Session:
        """The session whose zygote has these flaws."""
        if flaws not in self._sessions:
            folder = self._folder / ("+".join(flaws) or "confined")
            opening = weak_session(folder, flaws, self._identity)
            self._sessions[flaws] = self._stack.enter_context(opening)
        return self._sessions[flaws]

    def box(self, weak: Weakness | None = None) -> Box:
        """The sandbox that is weak in that way, or the confined one."""
        name = weak.name if weak else ""
        if name not in self._boxes:
            weak = weak or Weakness("")
            opening = weak_box(self.session(weak.flaws), weak, **self._profile)
            self._boxes[name] = self._stack.enter_context(opening)
        return self._boxes[name]

    def shell(self, weak: Weakness, script: str, *arguments: str) -> None:
        """A script of bash must write ``ESCAPED`` in the weakened sandbox, and not in the confined one."""
        self._compare(weak, ["bash", "-c", script, "bash", *arguments])

    def python(self, weak: Weakness, script: str, *arguments: str) -> None:
        """The same for one of Python, after ``PRELUDE``."""
        if not self._interpreter:
            self._interpreter = interpreter(self.box())
        self._compare(weak, [self._interpreter, "-I", "-S", "-c", prelude() + script, *arguments])

    def _compare(self, weak: Weakness, argv: list[str]) -> None:
        weakened, confined = self.box(weak), self.box()
        succeeded = weakened.run(argv)
        if b"ENOSYS" in succeeded.stdout:  # which only the kernel itself can say here
            pytest.skip(f"this kernel lacks what is attacked: {succeeded.stdout.decode()}")
        assert ESCAPED in succeeded.stdout.decode().split(), f"it fails without the layer, too: {succeeded}"
        done = confined.run(argv)
        assert ESCAPED not in done.stdout.decode(), done
        assert not done.timed_out, done


def interpreter(box: Box) -> str:
    """One that the sandbox itself has; the system calls that no shell makes need one."""
    for path in ("/usr/bin/python3", "/usr/local/bin/python3"):
        if box.run([path, "-c", "import ctypes, socket"]).exit_code == 0:
            return path
    pytest.skip("there is no python3 among the system's programs: no shell makes these calls")


_PRELUDE = """
import ctypes, errno, fcntl, os, signal, socket, struct, sys
NUMBERS = {numbers}
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
REFUSED = (errno.EPERM, errno.EACCES, errno.ENOSYS, errno.EAFNOSUPPORT)
BAD = ctypes.c_void_p(1)  # no address of anything
def call(name, *arguments):
    "Result and errno."
    ctypes.set_errno(0)
    wide = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    result = libc.syscall(ctypes.c_long(NUMBERS[name]), *wide)
    return result, ctypes.get_errno()
def reached(name, *arguments):
    "Whether the kernel's own code was reached: it did it, or complained about the arguments."
    result, number = call(name, *arguments)
    print(name, result, errno.errorcode.get(number, number))
    if result >= 0 or number not in REFUSED: escaped()
def escaped():
    print("ESCAPED", flush=True)
def done(attempt):
    "Whether it works at all."
    try: result = attempt()
    except OSError as error: print(error); return None
    escaped()
    return result
"""


@functools.cache
def prelude() -> str:
    """What every script in Python begins with: system calls by name, and words for their outcome."""
    library = ctypes.CDLL("libseccomp.so.2")
    resolve = library.seccomp_syscall_resolve_name
    numbers = {name: resolve(name.encode()) for name in _MACHINES_NAMES}
    return _PRELUDE.replace("{numbers}", repr({name: n for name, n in numbers.items() if n >= 0}))
