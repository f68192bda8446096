"""A sandbox in one object, for programs that use the library; and the same for programs with an event loop.

Namespaces are entered by the zygote, a process of its own: so a program may have threads, and any number of
sandboxes at the same time.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, Self

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
        identity = self._identity or current()
        enter = self._stack.enter_context
        try:
            credentials = enter(resolve(self.profile, identity))
            session = enter(Session(self.profile.name, reporter=self._reporter, identity=identity))
            proxy = enter(NamespaceProxy(session, self.profile, credentials, on_denial=self._note))
            self._sandbox = enter(NamespaceSandbox(session, self.profile, proxy))
        except BaseException:
            self._stack.close()
            raise
        self._session = session
        self._answers = Answers(proxy, self._sandbox.id)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _note(self, message: Message) -> None:
        if len(self._denials) < _MAX_DENIALS:
            self._denials.append(message)

    @property
    def id(self) -> str:
        """The run's id, which names its records and is what ``nsharness enter`` takes."""
        return self._session.run.id

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
