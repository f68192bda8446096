"""``nsharness exec -- CMD`` and ``nsharness shell``: one program in a sandbox made for it.

Nothing is printed to standard output, and to standard error only errors (and with ``-v`` what happens): the
streams are the program's.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, Final

from nsharness.cli.choice import Choice, choose
from nsharness.cli.relay import Kept, Output, Relay
from nsharness.errors import NsharnessError
from nsharness.frozen import frozen
from nsharness.linux.identity import Identity, current
from nsharness.supervisor.answers import Answers
from nsharness.supervisor.channel import Message
from nsharness.supervisor.console import Console, Silent
from nsharness.supervisor.control import ControlServer
from nsharness.supervisor.credentials import resolve
from nsharness.supervisor.init import Process
from nsharness.supervisor.proxy import NamespaceProxy
from nsharness.supervisor.reload import Reloader
from nsharness.supervisor.sandbox import NamespaceSandbox
from nsharness.supervisor.session import Session
from nsharness.supervisor.state import RunDirectory

_FORWARDED: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)
_TIMED_OUT: Final = 124
_KEPT_BYTES: Final = 10_000_000
_DENIALS: Final = 100
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)


@frozen
class Outcome:
    """How a run ended: the exit code, the error that ended it if one did, what is printed for ``--json``, and
    its folder."""

    code: int
    over: NsharnessError | None
    result: dict[str, Any]
    denials: list[Message]
    run: RunDirectory


def execute(options: argparse.Namespace) -> int:
    """The program's exit code; 124 after ``--timeout``, 125 when nsharness failed."""
    identity = current(user=options.user)
    outputs = (Kept(_KEPT_BYTES), Kept(_KEPT_BYTES)) if options.json else None
    ended = perform(options, identity, lambda: choose(options, identity), outputs)
    if outputs is not None:
        _print_json(ended.result, outputs, ended.denials)
    elif ended.over is not None:
        raise ended.over
    return ended.code


def perform(
    options: argparse.Namespace,
    identity: Identity,
    select: Callable[[], Choice],
    outputs: tuple[Output, Output] | None,
) -> Outcome:
    """Run the program to its end. ``select`` gives the profile, now and whenever it is to be read again;
    ``outputs`` take what the program writes in place of our own output."""
    chosen, environment = select(), _environment(options.env)
    denials: list[Message] = []

    def on_denial(message: Message) -> None:
        if len(denials) < _DENIALS:
            denials.append(message)

    started = time.monotonic()
    with (
        Relay(identity.drop_to, outputs) as relay,
        opened(options, identity, chosen, select, on_denial) as run,
    ):
        session, sandbox = run.session, run.sandbox
        asking = _asking(relay, run) if chosen.profile.unknown == "ask" else contextlib.nullcontext()
        code, in_time = _run(run, relay, _argv(options), environment, options.timeout, asking)
        session.hub.flush()
        if why := run.proxy.given_up:
            # It was denied everything since; the exit code is the program's all the same.
            failed = NsharnessError("there was no proxy", why=why, hint="nsharness doctor, or try with -v")
            print(f"nsharness: {failed}", file=sys.stderr)
        over = sandbox.ended_by  # A limit of the profile, which the program's own end only follows from.
        code = code if over is None else over.exit_code
        result = {
            "run": session.run.id,
            "exit_code": code,
            "timed_out": not in_time or code == _TIMED_OUT,
            "seconds": round(time.monotonic() - started, 3),
            "limits_hit": [hit.to_record() for hit in sandbox.limits_hit],
            **({} if over is None else {"error": str(over)}),
        }
        session.run.write_result(result)
    return Outcome(code, over, result, denials, session.run)


@frozen
class Opened:
    """A sandbox that runs, and what belongs to it."""

    session: Session
    proxy: NamespaceProxy
    sandbox: NamespaceSandbox
    answers: Answers


@contextlib.contextmanager
def opened(
    options: argparse.Namespace,
    identity: Identity,
    chosen: Choice,
    select: Callable[[], Choice],
    on_denial: Callable[[Message], None] | None = None,
) -> Iterator[Opened]:
    """A sandbox as the options say, which other commands of nsharness can find; gone after the block. Its
    proxy may have to be started still."""
    profile = chosen.profile
    reporter = Console(sys.stderr) if options.verbose else Silent()
    with (
        resolve(profile, identity, early=options.early) as credentials,
        Session(profile.name, reporter=reporter, identity=identity, early=options.early) as session,
        NamespaceProxy(session, profile, credentials, on_denial=on_denial, late=True) as proxy,
        session.last_sandbox(),
        NamespaceSandbox(session, profile, proxy) as sandbox,
        contextlib.nullcontext(
            Reloader(lambda: select().profile, profile, proxy, session.reporter)
        ) as reloader,
        contextlib.nullcontext(Answers(proxy, sandbox.id, chosen.file(identity))) as answers,
        ControlServer(session, sandbox, _end_this_process, reloader.reload, answers),
    ):
        yield Opened(session, proxy, sandbox, answers)


def _run(
    run: Opened,
    relay: Relay,
    argv: Sequence[str],
    environment: dict[str, str],
    timeout: float | None,
    asking: AbstractContextManager[object],
) -> tuple[int, bool]:
    sandbox = run.sandbox
    process = sandbox.spawn(
        argv, relay.descriptors, env={**relay.environment, **environment}, terminal=relay.terminal
    )
    # Before anything that it prints is seen: whoever waits for that may send a signal in answer.
    with _forwarding(sandbox, process):
        relay.start(process.master)
        # Last, where nothing else needs it before: the processors have enough to do until here.
        run.proxy.start()
        with asking:
            in_time = process.ended.wait(timeout)
    if not in_time:
        return _TIMED_OUT, False
    relay.finish()
    return process.status if process.status >= 0 else 128 - process.status, True


def _asking(relay: Relay, run: Opened) -> AbstractContextManager[object]:
    """Within the block a person is asked what the proxy asks."""
    from nsharness.cli.asking import Asker

    return Asker(relay, run.proxy.questions, run.answers)


@contextlib.contextmanager
def _forwarding(sandbox: NamespaceSandbox, process: Process) -> Iterator[None]:
    """Within the block the program decides what a signal means. A hang-up ends everything all the same."""

    def forward(number: int, _: object) -> None:
        # In a thread: the handler may have interrupted the very code that would send it.
        threading.Thread(
            target=sandbox.init.signal, args=(process, number), kwargs={"group": True}, daemon=True
        ).start()

    before = {
        number: signal.signal(number, forward)
        for number in _FORWARDED
        if signal.getsignal(number) is not signal.SIG_IGN
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _environment(wanted: Sequence[str]) -> dict[str, str]:
    """``NAME=VALUE``, or ``NAME`` with the value that it has here."""
    found = {}
    for text in wanted:
        name, given, value = text.partition("=")
        if not _NAME.fullmatch(name):
            raise NsharnessError(f"--env {name!a}", why="it is no name of a variable", hint="give NAME=VALUE")
        if not given and name not in os.environ:
            raise NsharnessError(f"--env {name}", why="it is not set here", hint="give NAME=VALUE")
        found[name] = value if given else os.environ[name]
    return found


def _argv(options: argparse.Namespace) -> list[str]:
    if options.command == "shell":
        return ["bash", *(["-i"] if os.isatty(0) else [])]
    return list(options.argv)


def _print_json(result: dict[str, Any], outputs: tuple[Kept, Kept], denials: list[Message]) -> None:
    streams: dict[str, Any] = {}
    for name, kept in zip(("stdout", "stderr"), outputs, strict=True):
        streams[name] = kept.content.decode(errors="replace")
        if kept.cut:
            streams[f"{name}_cut"] = True
    shown = ("method", "host", "port", "path", "rule", "reason")
    denied = [{key: each[key] for key in shown if each.get(key) is not None} for each in denials]
    print(json.dumps({**result, **streams, "denied": denied}))


def _end_this_process() -> None:
    os.kill(os.getpid(), signal.SIGHUP)
