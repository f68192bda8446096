"""A sandbox in one object, for programs that use the library; and the same for programs with an event loop.

Namespaces are entered by the zygote, a process of its own: so a program may have threads, and any number of
sandboxes at the same time.
"""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, Self

from nsharness.errors import NsharnessError
from nsharness.linux.identity import Identity, current
from nsharness.policy.load import load_profile
from nsharness.policy.profile import Profile
from nsharness.supervisor.answers import Answers
from nsharness.supervisor.channel import Message
from nsharness.supervisor.console import Reporter
from nsharness.supervisor.credentials import resolve
from nsharness.supervisor.onecall import OneCall, one_call
from nsharness.supervisor.proxy import NamespaceProxy
from nsharness.supervisor.sandbox import Completed, NamespaceSandbox
from nsharness.supervisor.session import Session
from nsharness.supervisor.shell import Shell, ShellResult

_MAX_DENIALS = 1000


class Sandbox:
    """A context manager: a sandbox with a credential proxy of its own; all of it ends with the block.

    ``profile`` is a ``Profile`` or the path of one in TOML; without it nothing can be reached. ``workspace``
    is a folder that the workload may read and write, in place of the profile's. ``NsharnessError`` says what
    is missing or wrong; nothing is left then.
    """

    def __init__(
        self,
        profile: Profile | str | os.PathLike[str] | None = None,
        *,
        workspace: str | os.PathLike[str] | None = None,
        reporter: Reporter | None = None,
        identity: Identity | None = None,
    ) -> None:
        if profile is None:
            profile = Profile(name="sandbox")
        elif not isinstance(profile, Profile):
            profile = load_profile(profile)
        if workspace is not None:
            files = profile.files.model_copy(update={"workspace": os.path.realpath(workspace)})
            written = {name: getattr(profile, name) for name in profile.model_fields_set - {"workspace"}}
            profile = Profile.model_validate({**written, "name": profile.name, "filesystem": files})
        self.profile = profile
        self._reporter = reporter
        self._identity = identity
        self._stack = ExitStack()
        self._denials: list[Message] = []

    def __enter__(self) -> Self:
        try:
            self._session, proxy, number = self._parts()
            sandbox = NamespaceSandbox(self._session, self.profile, proxy, number=number)
            self._sandbox = self._stack.enter_context(sandbox)
        except BaseException:
            self._stack.close()
            raise
        self._answers = Answers(proxy, self._sandbox.id)
        return self

    def _parts(self) -> tuple[Session, NamespaceProxy, int | None]:
        """What it stands on, and its number among several."""
        return (*_opened(self._stack, self.profile, self._reporter, self._identity, self._note), None)

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _note(self, message: Message) -> None:
        if len(self._denials) < _MAX_DENIALS:
            self._denials.append(message)

    @property
    def id(self) -> str:
        """The id by which audit lines name it: the run's, or that with a number before it."""
        return self._sandbox.id

    @property
    def shell(self) -> Shell:
        """The persistent bash: ``shell.run("cd src && make")``; ``cd`` and ``export`` last."""
        return self._sandbox.shell

    @property
    def denials(self) -> list[Message]:
        """What the proxy refused so far, as in the audit log: ``method``, ``host``, ``reason``…"""
        self._session.hub.flush()
        return list(self._denials)

    @property
    def questions(self) -> list[dict[str, Any]]:
        """The hosts that were asked about, where the profile says ``unknown = "ask"``: ``host``, and its
        ``state``: ``waiting``, ``unanswered``, ``allowed`` or ``denied``."""
        self._session.hub.flush()
        return self._answers.listing()

    def answer(self, host: str, *, allow: bool) -> None:
        """Say whether a host may be reached, without any credential, until the sandbox ends; also before
        anybody asked. ``NsharnessError`` for one that the profile names, or that cannot be asked about."""
        self._answers.give(host, "once" if allow else "never")

    def run(
        self,
        argv: Sequence[str],
        *,
        stdin: bytes = b"",
        timeout: float = 60.0,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
    ) -> Completed:
        """Run one program to its end, ``timeout`` in seconds. ``NsharnessError`` with exit code 126 or 127
        when it cannot be started."""
        return self._sandbox.run(argv, stdin=stdin, timeout=timeout, env=env, cwd=cwd)

    def read(self, path: str, limit: int = 1_000_000) -> bytes:
        """The first ``limit`` bytes of a file inside."""
        return self._sandbox.read_file(path, limit)

    def write(self, path: str, data: bytes) -> None:
        """Create or replace a file inside."""
        self._sandbox.write_file(path, data)

    def one_call(self) -> tuple[OneCall, Callable[[], None]]:
        """The sandbox for one call of ``shell.run``, ``read`` or ``write``, and a function that ends its
        command early, from any thread."""
        return one_call(self._sandbox)


class Sandboxes:
    """A context manager: any number of sandboxes with one profile, one after the other or at the same time,
    and one proxy for all of them. Each is on its own: file system, processes, network and certificates are
    shared with no other.

    What takes the most time when a sandbox starts is done once, and ``ready`` of them are kept half made.
    ``open`` may be called from several threads. What is still open when the block ends, ends with it.
    """

    def __init__(
        self,
        profile: Profile | str | os.PathLike[str] | None = None,
        *,
        ready: int = 1,
        reporter: Reporter | None = None,
        identity: Identity | None = None,
    ) -> None:
        self._first = Sandbox(profile, reporter=reporter, identity=identity)
        self._ready = ready
        self._numbers = itertools.count(1)
        self._open: dict[str, _OneOfMany] = {}
        self._stack = ExitStack()

    @property
    def profile(self) -> Profile:
        """What every sandbox may reach."""
        return self._first.profile

    def __enter__(self) -> Self:
        first = self._first
        try:
            self.session, self.proxy = _opened(
                self._stack, first.profile, first._reporter, first._identity, self._note, pool=self._ready
            )
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for box in list(self._open.values()):
            box.__exit__()
        self._stack.close()

    def open(self, *, workspace: str | os.PathLike[str] | None = None) -> Sandbox:
        """One more, which begins with its own ``with``. ``NsharnessError`` for a profile whose workspace is
        an overlay: a run has one."""
        if self.profile.files.workspace_mode == "overlay":
            raise NsharnessError(
                "cannot make several sandboxes",
                why="the workspace is an overlay",
                hint="use Sandbox for each",
            )
        return _OneOfMany(self, next(self._numbers), workspace)

    def _note(self, message: Message) -> None:
        if (box := self._open.get(str(message.get("sandbox")))) is not None:
            box._note(message)


class _OneOfMany(Sandbox):
    def __init__(self, many: Sandboxes, number: int, workspace: str | os.PathLike[str] | None) -> None:
        super().__init__(many.profile, workspace=workspace)
        self._many = many
        self._number = number

    def _parts(self) -> tuple[Session, NamespaceProxy, int | None]:
        many = self._many
        name = f"{self._number}.{many.session.run.id}"
        many._open[name] = self
        self._stack.callback(many._open.pop, name, None)
        return many.session, many.proxy, self._number


def _opened(
    stack: ExitStack,
    profile: Profile,
    reporter: Reporter | None,
    identity: Identity | None,
    on_denial: Callable[[Message], None],
    *,
    pool: int = 0,
) -> tuple[Session, NamespaceProxy]:
    """A session and a proxy, which end with the stack."""
    who = identity or current()
    credentials = stack.enter_context(resolve(profile, who))
    session = stack.enter_context(Session(profile.name, reporter=reporter, identity=who, pool=pool))
    proxy = stack.enter_context(NamespaceProxy(session, profile, credentials, on_denial=on_denial))
    return session, proxy


class AsyncSandbox:
    """The same as an asynchronous context manager; what waits does so in a thread.

    Commands of ``run`` may run at the same time; the persistent shell takes one at a time.
    """

    def __init__(
        self,
        profile: Profile | str | os.PathLike[str] | None = None,
        *,
        workspace: str | os.PathLike[str] | None = None,
        reporter: Reporter | None = None,
    ) -> None:
        self.sync = Sandbox(profile, workspace=workspace, reporter=reporter)

    async def __aenter__(self) -> Self:
        # Not to be given up half-way: what was started would be left to nobody.
        await _finished(asyncio.create_task(asyncio.to_thread(self.sync.__enter__)), self.sync)
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.shield(asyncio.to_thread(self.sync.__exit__))

    async def run(
        self,
        argv: Sequence[str],
        *,
        stdin: bytes = b"",
        timeout: float = 60.0,  # noqa: ASYNC109 - the sandbox ends the program, which a cancelled task does not
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
    ) -> Completed:
        """See ``Sandbox.run``."""
        return await asyncio.to_thread(self.sync.run, argv, stdin=stdin, timeout=timeout, env=env, cwd=cwd)

    async def shell(self, command: str, timeout: float = 60.0) -> ShellResult:  # noqa: ASYNC109
        """See ``Shell.run``. A task that is cancelled ends the command."""
        box, end_early = self.sync.one_call()
        try:
            return await asyncio.to_thread(box.run, command, timeout)
        finally:
            end_early()

    async def read(self, path: str, limit: int = 1_000_000) -> bytes:
        """See ``Sandbox.read``."""
        return await asyncio.to_thread(self.sync.read, path, limit)

    async def write(self, path: str, data: bytes) -> None:
        """See ``Sandbox.write``."""
        await asyncio.to_thread(self.sync.write, path, data)


async def _finished(entering: asyncio.Task[Sandbox], sandbox: Sandbox) -> None:
    """Wait for a sandbox that is being opened; when we are cancelled meanwhile, for its end as well."""
    try:
        await asyncio.shield(entering)
    except asyncio.CancelledError:
        await asyncio.wait([entering])
        if not entering.exception():
            await asyncio.to_thread(sandbox.__exit__)
        raise
