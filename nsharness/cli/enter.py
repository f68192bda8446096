"""``nsharness enter RUN -- CMD``: a command in a live sandbox, its standard streams relayed through pipes."""

from __future__ import annotations

import argparse
import os
import selectors
import signal
import socket
import threading
from typing import Any, Final

from nsharness.errors import NsharnessError
from nsharness.linux import fds
from nsharness.linux.identity import current
from nsharness.supervisor.client import connect
from nsharness.supervisor.state import find_run

_CHUNK: Final = 1 << 16


def enter(options: argparse.Namespace) -> int:
    """The command's exit code; 125 when the run does not live, 126 and 127 as shells use them."""
    identity = current()
    run = find_run(identity, options.run)
    try:
        control = connect(run)
    except (FileNotFoundError, ConnectionError):
        raise NsharnessError(f"run {run.id} has ended", hint="nsharness ps lists those that live") from None
    with control:
        pipes = [_pipe(identity.drop_to) for _ in range(3)]
        (in_read, in_write), (out_read, out_write), (err_read, err_write) = pipes
        theirs = (in_read, out_write, err_write)
        try:
            fds.send(control, {"op": "spawn", "argv": options.argv}, theirs)
        finally:
            fds.close_all(theirs)
        reply, _ = fds.receive(control)
        if reply is None or reply.get("event") != "spawned":
            raise _refusal(reply)
        _forward_signals(control)
        return _relay(control, in_write, {out_read: 1, err_read: 2})


def _pipe(owner: tuple[int, int] | None) -> tuple[int, int]:
    read, write = os.pipe2(os.O_CLOEXEC)
    if owner is not None:
        os.fchown(read, *owner)
    return read, write


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


def _relay(control: socket.socket, sink: int, sources: dict[int, int]) -> int:
    """Copy until the command has ended and what it wrote is out."""
    with selectors.DefaultSelector() as selector:
        selector.register(control, selectors.EVENT_READ)
        for source in sources:
            selector.register(source, selectors.EVENT_READ)
        # In a thread of its own: a command that does not read its input must not keep us from its output.
        threading.Thread(target=_feed, args=(sink,), daemon=True).start()
        while True:
            ready = {key.fd for key, _ in selector.select()}
            for source in ready & sources.keys():
                if not _copy(source, sources[source]):
                    selector.unregister(source)
            if control.fileno() in ready:
                reply, _ = fds.receive(control)
                if reply is None:
                    raise NsharnessError("the run ended before the command did")
                if reply.get("event") == "exit":
                    _drain(sources)
                    status = int(reply["status"])
                    return status if status >= 0 else 128 - status


def _feed(sink: int) -> None:
    """Our standard input, to its end or until the command takes no more."""
    while _copy(0, sink):
        continue
    os.close(sink)


def _copy(source: int, sink: int) -> bool:
    """Copy one chunk; False at the end of either side."""
    try:
        data = os.read(source, _CHUNK)
        if data:
            fds.write_all(sink, data)
        return bool(data)
    except OSError:
        return False


def _drain(sources: dict[int, int]) -> None:
    """What is in the pipes now; a background process of the command may keep them open for ever."""
    for source, sink in sources.items():
        os.set_blocking(source, False)
        while _copy(source, sink):
            continue
