"""The way into a running run: a socket in its state directory, for the commands about one.

Requests: ``status``, ``stop``, ``reload``, answered by ``reloaded`` with a text or by ``error``,
``questions``, and ``answer`` with a ``host`` and an ``answer``, for ``answered`` with a text;
``spawn`` with the descriptors 0, 1, 2 of the new program, answered by ``spawned`` or ``error`` and later by
``exit``; with ``terminal`` (rows, columns, streams…) those streams are a terminal of its own, whose other end
comes with ``spawned``. ``signal`` goes to the program that was spawned on the same connection. When the
client goes away, its program is killed.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
from collections.abc import Callable
from typing import Any, cast

from nsharness.errors import NsharnessError
from nsharness.linux import fds
from nsharness.supervisor.answers import Answers
from nsharness.supervisor.client import folder_of, peer_uid
from nsharness.supervisor.hub import Action
from nsharness.supervisor.init import Process, Terminal
from nsharness.supervisor.sandbox import NamespaceSandbox
from nsharness.supervisor.session import Session


class ControlServer:
    """A context manager: answers on the run's control socket inside the block."""

    def __init__(
        self,
        session: Session,
        sandbox: NamespaceSandbox,
        on_stop: Callable[[], None],
        on_reload: Callable[[], str] | None = None,
        answers: Answers | None = None,
    ) -> None:
        self._on_reload = on_reload
        self._answers = answers
        self._session = session
        self._sandbox = sandbox
        self._on_stop = on_stop
        self._clients: set[socket.socket] = set()
        self._lock = threading.Lock()

    def __enter__(self) -> ControlServer:
        run = self._session.run
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
        try:
            with run.identity.files(), folder_of(run) as folder:
                self._socket.bind(f"{folder}/{run.control_path.name}")
            self._socket.listen(16)
            self._socket.setblocking(False)
            self._session.hub.add(self._socket.fileno(), self._accept)
        except BaseException:
            # Also an interrupt, which may come right after the file was made.
            self._remove()
            raise
        return self

    def _remove(self) -> None:
        self._session.hub.remove(self._socket.fileno())
        self._socket.close()
        with self._session.identity.files():
            self._session.run.control_path.unlink(missing_ok=True)

    def __exit__(self, *_: object) -> None:
        self._remove()
        with self._lock:
            clients, self._clients = self._clients, set()
        for client in clients:
            with contextlib.suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> list[Action]:
        try:
            client, _ = self._socket.accept()
        except OSError:
            return []
        client.setblocking(True)
        if peer_uid(client) not in (0, self._session.identity.owner_uid):
            client.close()
            return []
        with self._lock:
            self._clients.add(client)
        threading.Thread(target=self._serve, args=(client,), daemon=True).start()
        return []

    def _serve(self, client: socket.socket) -> None:
        """One client, in a thread of its own: a request may wait for the sandbox."""
        started: list[Process] = []
        try:
            while True:
                message, descriptors = fds.receive(client)
                if message is None:
                    break
                try:
                    self._answer(client, message, descriptors, started)
                except NsharnessError as error:
                    reply = {"event": "error", "what": error.what, "why": error.why, "hint": error.hint}
                    fds.send(client, {**reply, "exit_code": error.exit_code})
                finally:
                    fds.close_all(descriptors)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            pass  # Gone, or not talking our language.
        finally:
            for process in started:
                if not process.ended.is_set():
                    self._sandbox.init.signal(process, signal.SIGKILL, group=True)
            with self._lock:
                self._clients.discard(client)
            client.close()

    def _answer(
        self, client: socket.socket, message: dict[str, Any], descriptors: list[int], started: list[Process]
    ) -> None:
        match message.get("op"):
            case "status":
                state = {"event": "status", "run": self._session.run.id, "pid": os.getpid()}
                fds.send(client, {**state, "init": self._sandbox.pid, "alive": self._sandbox.alive})
            case "stop":
                fds.send(client, {"event": "stopping"})
                self._on_stop()
            case "reload" if self._on_reload is not None:
                fds.send(client, {"event": "reloaded", "text": self._on_reload()})
            case "questions" if self._answers is not None:
                fds.send(client, {"event": "questions", "questions": self._answers.listing()})
            case "answer" if self._answers is not None:
                text = self._answers.give(str(message["host"]), str(message["answer"]))
                fds.send(client, {"event": "answered", "text": text})
            case "questions" | "answer":
                raise NsharnessError("there is nothing to answer", why="this run asks about no hosts")
            case "spawn":
                exits = _Exit(client)
                process = self._sandbox.spawn(
                    [str(word) for word in message["argv"]],
                    descriptors,
                    env={str(k): str(v) for k, v in message.get("env", {}).items()},
                    cwd=message.get("cwd"),
                    on_exit=exits.report,
                    terminal=_terminal(message.get("terminal")),
                )
                started.append(process)
                master = [] if process.master is None else [process.master]
                try:
                    fds.send(client, {"event": "spawned", "pid": process.pid}, master)
                finally:
                    fds.close_all(master)
                exits.announce()
            case "signal" if started:
                self._sandbox.init.signal(started[-1], int(message["signal"]), group=True)
            case other:
                raise NsharnessError(f"unknown request {other!r}")


def _terminal(wanted: object) -> Terminal | None:
    if wanted is None:
        return None
    rows, columns, *streams = (int(number) for number in cast(list[int], wanted))
    return Terminal(rows, columns, tuple(streams))


class _Exit:
    """Tells a client how its program ended, but not before it was told that the program began."""

    def __init__(self, client: socket.socket) -> None:
        self._client = client
        self._lock = threading.Lock()
        self._announced = False
        self._status: int | None = None

    def announce(self) -> None:
        with self._lock:
            self._announced = True
            self._send()

    def report(self, status: int) -> None:
        """Called in the hub's thread."""
        with self._lock:
            self._status = status
            self._send()

    def _send(self) -> None:
        if self._announced and self._status is not None:
            # Without waiting: a client that does not read must not keep the hub from everybody else.
            with contextlib.suppress(OSError):
                fds.send(self._client, {"event": "exit", "status": self._status}, wait=False)
