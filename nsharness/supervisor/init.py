"""The supervisor's side of a sandbox's PID 1: start programs, signal them, learn how they ended."""

from __future__ import annotations

import itertools
import socket
import threading
from collections.abc import Callable, Mapping, Sequence

from nsharness.errors import NsharnessError
from nsharness.frozen import frozen
from nsharness.linux import fds
from nsharness.supervisor.channel import Channel, Message
from nsharness.supervisor.hub import Hub

_ENOENT, _EACCES, _ENOEXEC = 2, 13, 8


class Process:
    """A program that was started inside; ``status`` is set when ``ended`` is."""

    __slots__ = ("ended", "id", "master", "on_exit", "pid", "status")

    def __init__(self, identifier: str, on_exit: Callable[[int], None] | None = None) -> None:
        self.id = identifier
        self.pid = 0
        """Its pid inside the sandbox."""
        self.on_exit = on_exit
        self.ended = threading.Event()
        self.status = 0
        """Exit code, or minus the signal's number, as ``os.waitstatus_to_exitcode`` gives it."""
        self.master: int | None = None
        """The other end of the terminal that it was given; whoever started it closes it."""


@frozen
class Terminal:
    """A terminal for a program: its window, and which of the streams 0, 1, 2 it takes the place of."""

    rows: int = 24
    columns: int = 80
    streams: tuple[int, ...] = (0, 1, 2)


class InitClient:
    """Talks to one PID 1."""

    def __init__(
        self,
        hub: Hub,
        sock: socket.socket,
        on_end: Callable[[], None],
        why_ended: Callable[[], NsharnessError | None] = lambda: None,
    ) -> None:
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        self._processes: dict[str, Process] = {}
        self._on_end = on_end
        self.why_ended = why_ended
        """Once the sandbox has ended: the error that says why, if more is known than that it has."""
        self._channel = Channel(hub, sock, self._on_event, self._ended)

    def _on_event(self, message: Message, descriptors: list[int]) -> None:
        fds.close_all(descriptors)
        if message.get("event") != "exit":
            return
        with self._lock:
            process = self._processes.pop(str(message["id"]), None)
        if process is not None:
            self._finish(process, int(message["status"]))

    def _ended(self) -> None:
        """PID 1 is gone and has taken everything with it: as if each had been killed."""
        self.why_ended()
        with self._lock:
            left, self._processes = self._processes, {}
        for process in left.values():
            self._finish(process, -9)
        self._on_end()

    @staticmethod
    def _finish(process: Process, status: int) -> None:
        process.status = status
        process.ended.set()
        if process.on_exit is not None:
            process.on_exit(status)

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
        """Start a program with these descriptors as its 0, 1, 2, …; they stay open here.

        With ``terminal`` they are the streams that the terminal is not. ``env`` adds to the sandbox's
        environment. ``NsharnessError`` with exit code 127 when there is no such program, 126 when it cannot
        be executed.
        """
        if not argv:
            raise NsharnessError("cannot run nothing", why="no program is named", exit_code=127)
        process = Process(f"p{next(self._numbers)}", on_exit)
        with self._lock:
            self._processes[process.id] = process
        message: Message = {"op": "spawn", "id": process.id, "argv": list(argv), "env": dict(env or {})}
        if cwd is not None:
            message["cwd"] = cwd
        if terminal is not None:
            message["terminal"] = [terminal.rows, terminal.columns, *terminal.streams]
        try:
            reply, received = self._request(message, descriptors)
        except BaseException:
            with self._lock:
                self._processes.pop(process.id, None)
            raise
        if reply["event"] == "failed":
            with self._lock:
                self._processes.pop(process.id, None)
            number = int(reply["errno"])
            code = 127 if number == _ENOENT else 126 if number in (_EACCES, _ENOEXEC) else 125
            raise NsharnessError(f"cannot run {argv[0]!r} in the sandbox", why=reply["why"], exit_code=code)
        process.pid = int(reply["pid"])
        if terminal is not None:
            (process.master,) = received
        return process

    def signal(self, process: Process, number: int, *, group: bool = False) -> None:
        """Send a signal to the program, or to its whole process group; no error when it has ended."""
        self._send(
            {"op": "signal", "id": process.id, "signal": number, "scope": "group" if group else "process"}
        )

    def note_running(self, process: Process) -> None:
        """Remember what the program has started so far."""
        self._request({"op": "note-running", "id": process.id}, ())

    def kill_newer(self, process: Process) -> None:
        """Kill everything that the program has started since, also with setsid(1)."""
        self._send({"op": "kill-newer", "id": process.id})

    def _send(self, message: Message) -> None:
        try:
            self._channel.send(message)
        except OSError:
            return  # Gone: so is everything that could have been signalled.

    def _request(self, message: Message, descriptors: Sequence[int]) -> tuple[Message, list[int]]:
        try:
            return self._channel.request(message, descriptors)
        except EOFError:
            raise self.why_ended() or NsharnessError(
                "the sandbox has ended", why="its first process is gone", hint="start a new run"
            ) from None
        except ValueError as error:
            # Arguments and environment of more than one message; execve(2) has a limit as well.
            raise NsharnessError("cannot tell the sandbox", why=str(error), exit_code=126) from None

    def close(self) -> None:
        """Close the socket: PID 1 ends, and the sandbox with it."""
        self._channel.close()
