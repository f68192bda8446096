"""A sandbox: its gateway wired to the proxy, its processes confined, its shell ready."""

from __future__ import annotations

import contextlib
import os
import signal
import stat
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Final

from nsharness.errors import NsharnessError
from nsharness.frozen import frozen, replace
from nsharness.linux import fds
from nsharness.plan.handover import split
from nsharness.plan.limits import LimitPlan
from nsharness.plan.steps import Plan
from nsharness.supervisor.attachment import Attachment
from nsharness.supervisor.bounded import OUTPUT_LIMIT
from nsharness.supervisor.cancel import Cancel
from nsharness.supervisor.init import InitClient, Process, Terminal
from nsharness.supervisor.limits import Enforcer, Hit, plan_limits
from nsharness.supervisor.planning import Found, look, plan_for
from nsharness.supervisor.proxy import NamespaceProxy
from nsharness.supervisor.pump import pump
from nsharness.supervisor.session import Session
from nsharness.supervisor.shell import Shell
from nsharness.supervisor.zygote import InitHandle

if TYPE_CHECKING:
    from nsharness.policy.shape import RunProfile

_END_SECONDS: Final = 5.0
_OUTPUT: Final = 1_000_000
_FILE_SECONDS: Final = 30.0
_WORDS: Final = 8_192  # Of what a program complains about: a path and a little more.


@frozen
class Completed:
    """How one program ended: exit code (128 + n for signal n, 124 after a timeout) and what it wrote."""

    exit_code: int
    stdout: bytes
    stderr: bytes
    timed_out: bool = False


class NamespaceSandbox:
    """A context manager: everything that runs inside ends with the block, at once.

    The workload reaches nothing but ``proxy``. It runs as the invoking user, as root without SUDO_UID as an
    unprivileged uid of its own. ``number`` tells several of a session apart.
    """

    def __init__(
        self, session: Session, profile: RunProfile, proxy: NamespaceProxy, *, number: int | None = None
    ) -> None:
        self._session = session
        self._number = number
        self._profile = profile
        self._proxy = proxy
        self._stack = ExitStack()
        self._ended = threading.Event()

    @property
    def id(self) -> str:
        """The sandbox's id: the run's, for one of several with its number before it."""
        run = self._session.run.id
        return run if self._number is None else f"{self._number}.{run}"

    @property
    def pid(self) -> int:
        """PID 1 of the sandbox, as the host numbers it."""
        return self._handle.pid

    @property
    def alive(self) -> bool:
        """Whether PID 1 is still there."""
        return not self._ended.is_set()

    @property
    def ended_by(self) -> NsharnessError | None:
        """The limit that ended it, as the error that everybody gets who wants something of it since."""
        hit = self._enforcer.cause() if hasattr(self, "_enforcer") else None
        return None if hit is None else hit.error()

    @property
    def limits_hit(self) -> tuple[Hit, ...]:
        """Limits that were reached, also those that only refused something. Known after the end, too."""
        return self._enforcer.hits() if hasattr(self, "_enforcer") else ()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until PID 1 has ended, and whether it has."""
        return self._ended.wait(timeout)

    def _limit_hit(self, hit: Hit) -> None:
        self._session.reporter.line("sandbox", f"Ended ({hit.describe()})")

    def __enter__(self) -> NamespaceSandbox:
        try:
            self._start()
        except BaseException:
            self._stack.close()
            raise
        kind = "False" if self._session.identity.privileged else "True"
        text = f"Started (id={self.id}, link=veth, rootless={kind}, proxy-wired)"
        self._session.reporter.line("sandbox", text)
        for name in self._enforcer.missing:
            self._session.reporter.line("sandbox", f"limits.{name} is not enforced: the kernel refused it")
        return self

    def _start(self) -> None:
        limits = plan_limits(self._profile.limit_values())
        zygote = self._session.zygote
        ahead = not limits.groups(self.id) and not self._profile.user_namespaces
        made = zygote.ask_gateway(mtls=self._profile.proxy_auth == "mtls", ahead=ahead)
        try:
            # Zygote, proxy and we: each does its part at the same time.
            found = look(self._profile, self._session.identity)
            self._proxy.ca_pem(self.id)
        except BaseException:
            with contextlib.suppress(NsharnessError):
                unused = made()
                fds.close_all(unused.listeners)
                zygote.release(unused)
            raise
        gateway = made()
        self._stack.callback(zygote.release, gateway)
        attachment = self._proxy.attach(self.id, gateway.listeners)
        self._stack.callback(self._proxy.detach, self.id)
        self.plan, contents = split(self._compose(found, attachment, limits))
        self._enforcer = Enforcer(limits, self._session.run.id, self._limit_hit)
        self._stack.callback(self._enforcer.close)
        ours, theirs = fds.message_pair()
        try:
            with theirs:
                groups = self._enforcer.descriptors
                self._handle = zygote.sandbox(gateway, self.plan, contents, theirs.fileno(), groups)
        except BaseException:
            ours.close()
            raise
        self._stack.callback(self._finish, self._handle)
        self._stack.callback(self._enforcer.settle)
        self.init = InitClient(self._session.hub, ours, self._ended.set, lambda: self.ended_by)
        self._stack.callback(self.init.close)
        self._enforcer.watch(self._session.hub, self._handle.pidfd)
        output = limits.value("output", OUTPUT_LIMIT)
        self.shell = Shell(self._session.hub, self.init, self._session.identity.drop_to, output)
        self._stack.callback(self.shell.close)

    def _compose(self, found: Found, attachment: Attachment, limits: LimitPlan) -> Plan:
        kept = None
        if self._profile.files.workspace_mode == "overlay":
            from nsharness.supervisor import layers

            kept = layers.create(self._session.run)
            self._stack.callback(kept.close)
        plan = plan_for(
            self._profile,
            self._session.identity,
            found=found,
            sandbox=self.id,
            ca_pem=self._proxy.ca_pem(self.id),
            limits=limits,
            client=attachment.client,
            environment={**self._profile.environment(self._proxy.placeholder), **attachment.environment},
            overlay=str(kept.path) if kept else "",
        )
        if kept is not None:
            kept.record(plan)
        return plan

    def _finish(self, handle: InitHandle) -> None:
        """PID 1 ends with its socket, which is closed by now; make sure, and wait until all is gone."""
        try:
            if not fds.await_readable(handle.pidfd, _END_SECONDS):
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(handle.pidfd, signal.SIGKILL)
                fds.await_readable(handle.pidfd, _END_SECONDS)
        finally:
            fds.close_all([handle.pidfd])

    def __exit__(self, *_: object) -> None:
        self._stack.close()
        # They would stay until the collector comes round.
        self.plan = replace(self.plan, steps=())
        for hit in self.limits_hit:
            if not hit.ended:
                self._session.reporter.line("sandbox", hit.describe())

    def spawn(
        self,
        argv: Sequence[str],
        descriptors: Sequence[int],
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        on_exit: Callable[[int], None] | None = None,
        terminal: Terminal | None = None,
    ) -> Process:
        """Start a program with these descriptors; see ``InitClient.spawn``. Pipes and nothing else, please:
        a regular file could be reopened for writing through ``/proc/self/fd``, a directory leads outside."""
        owner = self._session.identity.drop_to
        for descriptor in descriptors:
            _check_descriptor(descriptor)
            if owner is not None and stat.S_ISFIFO(os.fstat(descriptor).st_mode):
                # Whoever made it may not know which uid this run has: /dev/stdin is opened as the workload.
                os.fchown(descriptor, *owner)
        return self.init.spawn(argv, descriptors, env=env, cwd=cwd, on_exit=on_exit, terminal=terminal)

    def run(
        self,
        argv: Sequence[str],
        *,
        stdin: bytes = b"",
        timeout: float = 60.0,
        limit: int | None = None,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        cancel: Cancel | None = None,
    ) -> Completed:
        """Run one program to its end; of each output stream at most ``limit`` bytes are kept, by default as
        many as the profile says. It is killed when ``cancel`` is given."""
        if limit is None:
            limit = self.plan.limits.value("output", _OUTPUT)
        pairs = [self._pipe() for _ in range(3)]
        (in_read, in_write), (out_read, out_write), (err_read, err_write) = pairs
        ended_read, ended_write = os.pipe2(os.O_CLOEXEC)
        # Whoever is first closes it, the program's end or a start that fails because the sandbox ends.
        unclosed = [ended_write]

        def close_end(_: int = 0) -> None:
            with contextlib.suppress(IndexError):
                os.close(unclosed.pop())

        try:
            process = self.init.spawn(
                argv, [in_read, out_write, err_write], env=env, cwd=cwd, on_exit=close_end
            )
        except BaseException:
            fds.close_all([*(end for pair in pairs for end in pair), ended_read])
            close_end()
            raise
        fds.close_all([in_read, out_write, err_write])

        def kill() -> None:
            self.init.signal(process, signal.SIGKILL, group=True)

        with (cancel or Cancel()).waking(kill):
            outputs, in_time = pump(in_write, stdin, [out_read, err_read], ended_read, timeout, limit)
        if not in_time:
            kill()
            process.ended.wait(_END_SECONDS)
        fds.close_all([out_read, err_read, ended_read])
        code = process.status if process.status >= 0 else 128 - process.status
        if in_time and (why := self.ended_by) is not None:
            return Completed(why.exit_code, outputs[0], outputs[1], timed_out=why.exit_code == 124)
        return Completed(code if in_time else 124, outputs[0], outputs[1], timed_out=not in_time)

    def read_file(self, path: str, limit: int = 1_000_000, cancel: Cancel | None = None) -> bytes:
        """The first ``limit`` bytes of a file inside; ``NsharnessError`` when it cannot be read, or not
        within 30 s (a pipe that nobody writes to).

        A program of the sandbox reads it, with the workload's rights and confinement.
        """
        program = ["head", "-c", str(limit), "--", path]
        done = self.run(program, limit=limit, timeout=_FILE_SECONDS, cancel=cancel)
        if done.exit_code != 0:
            raise _file_error(f"cannot read {path!r} in the sandbox", done)
        return done.stdout

    def write_file(self, path: str, data: bytes, cancel: Cancel | None = None) -> None:
        """Create or replace a file inside; ``NsharnessError`` as for ``read_file``."""
        program = ["tee", "--", path]
        done = self.run(program, stdin=data, limit=_WORDS, timeout=_FILE_SECONDS, cancel=cancel)
        if done.exit_code != 0:
            raise _file_error(f"cannot write {path!r} in the sandbox", done)

    def _pipe(self) -> tuple[int, int]:
        read, write = os.pipe2(os.O_CLOEXEC)
        if (owner := self._session.identity.drop_to) is not None:
            os.fchown(read, *owner)
        return read, write


def _file_error(what: str, done: Completed) -> NsharnessError:
    why = done.stderr.decode(errors="replace").strip() or f"exit code {done.exit_code}"
    return NsharnessError(
        what, why=f"it took more than {_FILE_SECONDS:g} s" if done.timed_out else why, exit_code=1
    )


def _check_descriptor(descriptor: int) -> None:
    """``NsharnessError`` for a descriptor that would be a way out."""
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISFIFO(mode):
        return
    if stat.S_ISCHR(mode) and os.fstat(descriptor).st_rdev == os.makedev(1, 3):
        return
    kind = "a socket" if stat.S_ISSOCK(mode) else "a directory" if stat.S_ISDIR(mode) else "no pipe"
    raise NsharnessError(
        "cannot hand this descriptor to the sandbox", why=f"it is {kind}", hint="relay it through a pipe"
    )
