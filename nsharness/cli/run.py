"""``nsharness run``: open the parts in one ``with``, run the flow, show what came of it."""

from __future__ import annotations

import argparse
import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from nsharness.cli.hold import hold
from nsharness.errors import NsharnessError
from nsharness.linux.identity import Identity, current
from nsharness.supervisor.console import Console
from nsharness.supervisor.control import ControlServer
from nsharness.supervisor.credentials import Ensured, resolve
from nsharness.supervisor.mocks import MockServices
from nsharness.supervisor.proxy import NamespaceProxy
from nsharness.supervisor.reload import Reloader
from nsharness.supervisor.sandbox import NamespaceSandbox
from nsharness.supervisor.session import Session
from nsharness.supervisor.state import state_home

if TYPE_CHECKING:
    from nsharness.agent.ports import ShellResult
    from nsharness.stages.stage4.flow import Stage4Result

# The demo's own tokens: random, made at the first run, and kept in the secret store like any other.
_DEMO_SECRETS: Final = (Ensured("wiki", "token", "wiki_"), Ensured("webhook", "token", "hook_"))
_DEMO_HOSTS: Final = {"wiki.token": "wiki.local", "webhook.token": "webhook.local"}


class FlowConsole:
    """Prints the flow's events between those of the other parts, in the order in which they happened."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def checkpoint_started(self, name: str) -> None:
        self._session.reporter.plain(f"Checkpoint `{name}` started.")

    def checkpoint_finished(self, name: str, seconds: float) -> None:
        self._session.hub.flush()
        self._session.reporter.plain(f"Checkpoint `{name}` finished in {seconds:.1f}s.")

    def checkpoint_cached(self, name: str) -> None:
        text = f"Checkpoint `{name}` served from the cache (DISABLE_CACHE=1 runs it again)."
        self._session.reporter.plain(text)

    def command_started(self, command: str) -> None:
        self._session.reporter.line("sandbox", f"$ {command}")

    def command_finished(self, result: ShellResult) -> None:
        # What the proxy and the services did for this command has reached us: let it be printed first.
        self._session.hub.flush()
        end = "timed out" if result.timed_out else f"exit={result.exit_code}"
        text = f"  → {end}, stdout={len(result.stdout)} chars, cwd={result.cwd}"
        self._session.reporter.line("sandbox", text)


def run(options: argparse.Namespace) -> int:
    """Run stage 4. ``NsharnessError`` names what failed; by then everything is gone again."""
    from nsharness.agent.checkpoints import CheckpointStore
    from nsharness.agent.loop import check_model
    from nsharness.stages import stage4
    from nsharness.stages.stage4.flow import run_stage4

    _require_programs()
    identity = current(user=options.user)
    out = _output_folder(options.out, identity)
    profile = stage4.load()
    check_model(options.model or profile.model)
    checkpoints = CheckpointStore(
        state_home(identity) / "checkpoints.sqlite", owner=identity.owner_uid, as_owner=identity.files
    )
    console = Console()
    digests = [(secret.name, secret.key) for secret in _DEMO_SECRETS]
    with (
        resolve(profile, identity, ensure=_DEMO_SECRETS, digests=digests, early=options.early) as credentials,
        Session("stage4", reporter=console, identity=identity, early=options.early) as session,
        MockServices(session, _tokens(credentials.digests)) as mocks,
        NamespaceProxy(session, profile, credentials, upstreams=mocks.upstreams) as proxy,
        NamespaceSandbox(session, profile, proxy) as sandbox,
        nullcontext(Reloader(stage4.load, profile, proxy, console)) as reloader,
        ControlServer(session, sandbox, _end_this_process, reloader.reload),
        _ended_by_limit(session, sandbox),
    ):
        result = run_stage4(
            sandbox,
            FlowConsole(session),
            checkpoints,
            profile=profile,
            model=options.model,
            disable_cache=os.environ.get("DISABLE_CACHE", "") not in ("", "0"),
        )
        _show(session, result, out, sandbox)
        if options.hold:
            hold(console, sandbox, reloader.reload)
    return 0


@contextmanager
def _ended_by_limit(session: Session, sandbox: NamespaceSandbox) -> Iterator[None]:
    """A limit that ended the sandbox is the run's result, whatever else failed because of it."""
    try:
        yield
    except NsharnessError as error:
        why = sandbox.ended_by
        failure = why or error
        session.run.write_result(
            {"exit_code": failure.exit_code, "error": str(failure), "limits_hit": _hits(sandbox)}
        )
        if why is not None:
            raise why from error
        raise


def _hits(sandbox: NamespaceSandbox) -> list[dict[str, Any]]:
    return [hit.to_record() for hit in sandbox.limits_hit]


def _require_programs() -> None:
    """What the demo's agent uses, where the sandbox looks for it: not to find out half-way."""
    for name in ("bash", "curl"):
        if shutil.which(name, path="/usr/local/bin:/usr/bin:/bin") is None:
            hint = f"install {name}; Debian, Ubuntu: sudo apt-get install {name}"
            raise NsharnessError(f"no {name}", why="the demo's agent needs it", hint=hint)


def _tokens(digests: dict[str, str] | object) -> dict[str, str]:
    assert isinstance(digests, dict)
    return {host: digests[name] for name, host in _DEMO_HOSTS.items()}


def _output_folder(text: str | None, identity: Identity) -> Path | None:
    """The folder for the summary, made now: a run of seconds should not end with a refusal."""
    if text is None:
        return None
    folder = Path(text).absolute()
    try:
        with identity.files():
            folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise NsharnessError(
            f"cannot use {folder} for the summary",
            why=error.strerror or str(error),
            hint="name a folder that you may write to",
        ) from error
    return folder


def _show(session: Session, result: Stage4Result, out: Path | None, sandbox: NamespaceSandbox) -> None:
    kept = (out or session.run.path) / "summary.txt"
    try:
        with session.identity.files():
            _write(kept, result.summary)
    except OSError as error:
        raise NsharnessError(f"cannot write {kept}", why=error.strerror or str(error)) from error
    session.run.write_result(
        {
            "exit_code": 0,
            "cached": result.cached,
            "seconds": round(result.seconds, 3),
            "answer": result.answer,
            "limits_hit": _hits(sandbox),
        }
    )
    session.reporter.plain(f"\n{result.answer.strip()}\n")
    session.reporter.plain(f"/tmp/summary.txt, kept in {kept}:")
    session.reporter.plain(result.summary.decode(errors="replace").rstrip())


def _write(path: Path, data: bytes) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    with os.fdopen(os.open(path, flags, 0o644), "wb") as stream:
        stream.write(data)


def _end_this_process() -> None:
    os.kill(os.getpid(), signal.SIGTERM)
