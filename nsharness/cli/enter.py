"""``nsharness enter RUN -- CMD``: a command in a live sandbox, its standard streams relayed."""

from __future__ import annotations

import argparse
import signal
import socket
from typing import Any

from nsharness.cli.relay import Relay
from nsharness.errors import NsharnessError
from nsharness.linux import fds
from nsharness.linux.identity import current
from nsharness.supervisor.client import connect
from nsharness.supervisor.state import find_run


def enter(options: argparse.Namespace) -> int:
    """The command's exit code; 125 when the run does not live, 126 and 127 as shells use them."""
    identity = current()
    run = find_run(identity, options.run)
    try:
        control = connect(run)
    except (FileNotFoundError, ConnectionError):
        raise NsharnessError(f"run {run.id} has ended", hint="nsharness ps lists those that live") from None
    with control, Relay(identity.drop_to) as relay:
        message: dict[str, Any] = {"op": "spawn", "argv": options.argv, "env": relay.environment}
        if relay.terminal is not None:
            message["terminal"] = [relay.terminal.rows, relay.terminal.columns, *relay.terminal.streams]
        fds.send(control, message, relay.descriptors)
        reply, received = fds.receive(control)
        if reply is None or reply.get("event") != "spawned":
            fds.close_all(received)
            raise _refusal(reply)
        _forward_signals(control)  # Before the command can be heard of, and so be sent one.
        relay.start(*received)
        reply, _ = fds.receive(control)
        if reply is None:
            raise NsharnessError("the run ended before the command did")
        relay.finish()
        status = int(reply["status"])
        return status if status >= 0 else 128 - status


def _refusal(reply: dict[str, Any] | None) -> NsharnessError:
    if reply is None:
        return NsharnessError("the run ended", hint="nsharness ps lists those that live")
    return NsharnessError(
        str(reply.get("what", "cannot enter")),
        why=str(reply.get("why", "")),
        hint=str(reply.get("hint", "")),
        exit_code=int(reply.get("exit_code", 125)),
    )


def _forward_signals(control: socket.socket) -> None:
    """The command, not this client, decides what Ctrl-C means."""

    def forward(number: int, _: object) -> None:
        fds.send(control, {"op": "signal", "signal": number})

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, forward)
