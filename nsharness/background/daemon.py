"""The process that keeps spares and gives each client one of them. One thread, and no credential."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import selectors
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from nsharness.background import spare, words
from nsharness.background.listening import listening
from nsharness.background.peer import Surroundings, group_that_limits, surroundings
from nsharness.linux import fds
from nsharness.supervisor.client import peer

_REFILL_SECONDS: Final = 0.3
"""How long the next spare waits to be made: a run that has just been given away needs the processors more."""
_RETRY_SECONDS: Final = 10.0
_MAX_QUICK_DEATHS: Final = 3


@dataclass(slots=True)
class _Spare:
    sock: socket.socket
    ready: bool = False


class Daemon:
    """Serves a listening socket until ``idle`` seconds have passed without a client, or it is told to end."""

    def __init__(
        self,
        listening: socket.socket,
        lock: int,
        run: spare.Run,
        rehearse: Callable[[], None],
        code: Code,
        *,
        spares: int,
        idle: float,
    ) -> None:
        """``run`` is the command line's main function, ``rehearse`` does as much of it as needs no command;
        ``lock`` is a descriptor that no spare may have."""
        self._listening = listening
        self._lock = lock
        self._wakeup = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._run = run
        self._rehearse = rehearse
        self._wanted = spares
        self._idle = idle
        self._ours: Surroundings = surroundings()
        self._code = code
        self._selector = selectors.DefaultSelector()
        self._spares: list[_Spare] = []
        self._deaths = 0
        self._ending = False
        self._refill_at = 0.0
        self._until = time.monotonic() + idle

    def serve(self) -> None:
        """Until it is over; the spares end with it, runs do not."""
        listening = self._listening
        listening.setblocking(False)
        self._selector.register(listening, selectors.EVENT_READ, self._accept)
        self._selector.register(self._wakeup[0], selectors.EVENT_READ, self._end)
        # Nobody waits for the children: they are runs of their own, or see our end.
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, lambda *_: None)
        signal.set_wakeup_fd(self._wakeup[1], warn_on_full_buffer=False)
        while not self._ending:
            now = time.monotonic()
            if now >= self._until:
                break
            if len(self._spares) < self._wanted and now >= self._refill_at:
                try:
                    self._add()
                except OSError:
                    self._refill_at = now + _RETRY_SECONDS
            waits = self._until if len(self._spares) >= self._wanted else min(self._until, self._refill_at)
            for key, _ in self._selector.select(max(0.0, waits - now)):
                key.data()
        for each in self._spares:
            each.sock.close()

    def _end(self) -> None:
        self._ending = True

    def _accept(self) -> None:
        try:
            client, _ = self._listening.accept()
        except OSError:
            return
        with client:
            self._until = time.monotonic() + self._idle
            try:
                pid, uid = peer(client)
                pidfd = os.pidfd_open(pid)
            except OSError:
                return
            try:
                refused = self._refusal(pid, uid)
                if refused is None:
                    self._give(client, pidfd)
                else:
                    with contextlib.suppress(OSError):
                        client.send(words.NO + refused.encode(), socket.MSG_NOSIGNAL | socket.MSG_DONTWAIT)
            finally:
                os.close(pidfd)

    def _refusal(self, pid: int, uid: int) -> str | None:
        """Why a client gets nothing; None where it may have a run."""
        if uid != os.getuid():
            return "it is another user's"
        if not self._code.is_the_same():
            # Another version has been installed: the next client starts from that.
            self._ending = True
            return "the code has changed"
        try:
            differs = self._ours.differs(surroundings(pid))
            group = group_that_limits(pid)
        except OSError:
            return "it cannot be looked at"
        return differs or group

    def _give(self, client: socket.socket, pidfd: int) -> None:
        given = False
        while not given:
            fresh = not self._spares
            if fresh:
                try:
                    self._add()
                except OSError:
                    break  # The client cannot expect to get further, but it will say why.
            each = min(self._spares, key=lambda each: not each.ready)
            self._forget(each)
            with each.sock, contextlib.suppress(OSError):  # It has just died.
                socket.send_fds(each.sock, [b"\0"], [client.fileno(), pidfd], socket.MSG_NOSIGNAL)
                given = True
            given = given or fresh
        self._refill_at = time.monotonic() + _REFILL_SECONDS

    def _forget(self, each: _Spare) -> None:
        self._spares.remove(each)
        self._selector.unregister(each.sock)

    def _add(self) -> None:
        """One more. ``OSError`` where nothing more can be started now (fork(2))."""
        ours, theirs = fds.message_pair()
        sys.stdout.flush()
        sys.stderr.flush()
        try:
            pid = os.fork()
        except OSError:
            ours.close()
            theirs.close()
            raise
        if pid == 0:
            ours.close()
            with contextlib.suppress(BaseException):
                self._become_spare(theirs)
            os._exit(1)
        theirs.close()
        made = _Spare(ours)
        self._spares.append(made)
        self._selector.register(ours, selectors.EVENT_READ, lambda: self._heard(made))

    def _become_spare(self, theirs: socket.socket) -> None:
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        os.setsid()
        for each in self._spares:
            each.sock.close()
        self._listening.close()
        self._selector.close()
        fds.close_all([*self._wakeup, self._lock])
        spare.be(theirs, self._run, self._rehearse)

    def _heard(self, each: _Spare) -> None:
        """A spare is ready, or has ended."""
        if each not in self._spares:
            return  # It was given away before its word was read.
        try:
            data = each.sock.recv(words.MAX_WORD)
        except OSError:
            data = b""
        if data == spare.WAITING:
            each.ready = True
            self._deaths = 0
            return
        self._forget(each)
        each.sock.close()
        self._deaths += 1
        pause = _RETRY_SECONDS if self._deaths >= _MAX_QUICK_DEATHS else _REFILL_SECONDS
        self._refill_at = time.monotonic() + pause


class Code:
    """The files that our programs consist of, and which state of them.

    A client waits while they are looked at: as long as no folder has changed there are the same files in
    them, and those need not be searched for.
    """

    def __init__(self, packages: Sequence[str]) -> None:
        self._packages = packages
        self._folders, self._files = _searched(packages)

    def is_the_same(self) -> bool:
        """Whether none was changed, none has gone and none has come."""
        if _states(self._files) != self._files:
            return False
        if _states(self._folders) != self._folders:
            folders, files = _searched(self._packages)
            if files != self._files:
                return False
            self._folders = folders  # It was bytecode, say.
        return True


def our_code() -> Code:
    """That of nsharness itself, as it is now."""
    return Code(_PACKAGES)


type _States = dict[str, tuple[int, int]]


def _searched(packages: Sequence[str]) -> tuple[_States, _States]:
    folders: _States = {}
    files: list[str] = []

    def look(folder: str) -> None:
        # Before what is in it: what comes meanwhile is seen the next time.
        folders.update(_states([folder]))
        with contextlib.suppress(OSError), os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.endswith((".py", ".toml")):
                    files.append(entry.path)
                elif entry.name != "__pycache__" and entry.is_dir(follow_symlinks=False):
                    look(entry.path)

    for package in packages:
        look(package)
    return folders, _states(files)


def _states(paths: Iterable[str]) -> _States:
    found = {}
    for path in paths:
        with contextlib.suppress(OSError):
            status = os.stat(path)  # noqa: PTH116 - while a client waits
            found[path] = (status.st_mtime_ns, status.st_ino)
    return found


def _package(name: str) -> str:
    spec = importlib.util.find_spec(name)
    return os.path.dirname(spec.origin) if spec is not None and spec.origin else ""  # noqa: PTH120


_PACKAGES: Final = tuple(map(_package, ("nsharness", "nsharness_proxy")))


def serve_until_over(
    run: spare.Run,
    rehearse: Callable[[], None],
    code: Code,
    *,
    spares: int,
    idle: float,
    started: Callable[[], None],
) -> None:
    """All of it, in this process; ``started`` is called once clients can come. ``code`` is as it was before
    any of it was loaded."""
    with listening() as (sock, lock):
        daemon = Daemon(sock, lock, run, rehearse, code, spares=spares, idle=idle)
        started()
        daemon.serve()
