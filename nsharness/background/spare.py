"""A spare: waits for one command line, and is then what runs it."""

from __future__ import annotations

import array
import contextlib
import fcntl
import io
import os
import signal
import socket
import struct
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import Final, NoReturn

from nsharness.background import words
from nsharness.background.words import Request
from nsharness.linux import fds
from nsharness.supervisor.client import peer
from nsharness.supervisor.early import Early

Run = Callable[[list[str], Early], int]
"""The command line's own main function: the arguments, and the helpers that have been started."""

WAITING: Final = b"waiting"
"""What a spare tells the daemon once its helpers have been started."""

_CREDENTIALS: Final = struct.Struct("=iII")
_REQUEST_SECONDS: Final = 10.0
_LAST_SECONDS: Final = 15.0
_UNFLUSHED: Final = 120
"""The interpreter's own exit code when output was left that nobody took."""
_ENDING: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_FORWARDED: Final = frozenset(
    {
        signal.SIGINT,
        signal.SIGTERM,
        signal.SIGHUP,
        signal.SIGQUIT,
        signal.SIGUSR1,
        signal.SIGUSR2,
        signal.SIGWINCH,
    }
)


class _GoneError(Exception):
    """There is nobody to do anything for."""


def be(daemon: socket.socket, run: Run, rehearse: Callable[[], None]) -> NoReturn:
    """The life of the process. ``daemon`` sends one connection, and what the client's process is known by."""
    code = 1
    try:
        with Early() as early:
            early.warm()
            # What is written to for the first time is copied from the daemon's memory: now, and not later.
            rehearse()
            # It may have given us a client already, and have nothing further to say.
            with contextlib.suppress(BrokenPipeError):
                daemon.send(WAITING, socket.MSG_NOSIGNAL)
            try:
                _, received, _, _ = socket.recv_fds(daemon, 1, 2)
            except ConnectionResetError:
                # It has closed its end without having read our word. What it sent before is still there.
                _, received, _, _ = socket.recv_fds(daemon, 1, 2)
            if len(received) == 2:
                daemon.close()
                code = _serve(socket.socket(fileno=received[0]), received[1], run, early)
    except (OSError, ValueError, _GoneError):
        code = 1
    finally:
        os._exit(code)


def _serve(client: socket.socket, pidfd: int, run: Run, early: Early) -> int:
    client.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    client.settimeout(_REQUEST_SECONDS)
    client.send(words.READY + words.build(), socket.MSG_NOSIGNAL)
    request = _received(client, pidfd)
    client.settimeout(None)
    over = threading.Event()
    watching = threading.Thread(target=_watch, args=(client, over), daemon=True)
    arguments = _adopt(request)
    _wake_for(client)
    client.send(words.TAKEN + b"%d" % os.getpid(), socket.MSG_NOSIGNAL)
    try:
        watching.start()
        code = run(arguments, early)
    except SystemExit as left:
        # As the interpreter has it: wrong usage, --help.
        code = left.code if isinstance(left.code, int) else int(left.code is not None)
    except KeyboardInterrupt:
        code = 128 + signal.SIGINT  # before there was anything to be cleared away
    except BaseException:  # noqa: BLE001 - a bug, told as the interpreter would
        traceback.print_exc()
        code = 1
    for number in _ENDING:
        signal.signal(number, signal.SIG_IGN)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            code = code or _UNFLUSHED
    early.__exit__(None, None, None)
    over.set()
    with contextlib.suppress(OSError):
        client.send(words.EXIT + b"%d" % code, socket.MSG_NOSIGNAL)
    # The client may just be telling us of a signal: a socket that is closed with something unread in it
    # takes back what it has sent (unix(7), ECONNRESET).
    watching.join(_LAST_SECONDS)
    return 0


def _received(client: socket.socket, pidfd: int) -> Request:
    """The request; its working directory and streams are ours from now on."""
    data, ancillary, flags, _ = client.recvmsg(
        words.MAX_WORD,
        socket.CMSG_SPACE(words.DESCRIPTORS * 4) + socket.CMSG_SPACE(_CREDENTIALS.size),
        socket.MSG_CMSG_CLOEXEC,
    )
    opened = array.array("i")
    sender = 0
    for level, kind, payload in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            opened.frombytes(payload[: len(payload) - len(payload) % opened.itemsize])
        elif (level, kind) == (socket.SOL_SOCKET, socket.SCM_CREDENTIALS):
            sender, _, _ = _CREDENTIALS.unpack(payload)
    try:
        # Sent by the very process that was looked at: the number is its own, and it has not ended, so that
        # the number cannot be another's.
        connected, _ = peer(client)
        alive = not fds.await_readable(pidfd, 0)
        if data != words.RUN or flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
            raise _GoneError
        if len(opened) != words.DESCRIPTORS or sender != connected or not alive:
            raise _GoneError
        request = Request.from_bytes(fds.read_all(opened[1]))
        os.fchdir(opened[0])
        for place, descriptor in enumerate(opened[2:]):
            os.dup2(descriptor, place)
        return request
    finally:
        fds.close_all([*opened, pidfd])


def _adopt(request: Request) -> list[str]:
    """Become what the client is; its arguments."""
    os.umask(request.umask)
    os.environb.clear()
    os.environb.update(request.environment)
    time.tzset()
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD}:
        with contextlib.suppress(OSError):
            signal.signal(number, signal.SIG_IGN if number in request.ignored else signal.SIG_DFL)
    if signal.SIGINT not in request.ignored:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)  # as the interpreter has it
    streams = [_stream(place, *kind) for place, kind in enumerate(request.streams)]
    sys.stdin, sys.stdout, sys.stderr = streams
    arguments = [os.fsdecode(each) for each in request.words]
    sys.argv[1:] = arguments
    return arguments


def _wake_for(client: socket.socket) -> None:
    """A client that stops has stopped us, too, and may then be killed: whatever comes from it, and its end,
    continues us (O_ASYNC and F_SETSIG in fcntl(2))."""
    fcntl.fcntl(client, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(client, fcntl.F_SETSIG, signal.SIGCONT)
    fcntl.fcntl(client, fcntl.F_SETFL, fcntl.fcntl(client, fcntl.F_GETFL) | os.O_ASYNC)


def _stream(place: int, encoding: str, errors: str) -> io.TextIOWrapper:
    """As the interpreter opens it at its start."""
    buffer = open(place, "wb" if place else "rb", closefd=False)  # noqa: SIM115 - for good
    lines = place == 2 or os.isatty(place)
    return io.TextIOWrapper(buffer, encoding=encoding, errors=errors, line_buffering=lines)


def _watch(client: socket.socket, over: threading.Event) -> None:
    """Signals that the client was sent are ours. Its end is the end of this run, if it is not ``over``."""
    with contextlib.suppress(OSError, ValueError):
        while data := client.recv(words.MAX_WORD):
            number = int(data.removeprefix(words.SIGNAL))
            if number in _FORWARDED and not over.is_set():
                if signal.getsignal(number) is signal.SIG_DFL and number != signal.SIGWINCH:
                    # We have not come far, and it ends us on the spot.
                    client.send(words.EXIT + b"%d" % (128 + number), socket.MSG_NOSIGNAL)
                os.kill(os.getpid(), number)
    if over.is_set():
        return
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        # Killed, since nothing else ends it, as it would have been itself.
        os.kill(os.getpid(), signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGHUP)
