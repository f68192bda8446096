"""The command line's side: hand everything to a spare and stand in for it, or say that nobody is there.

On the way of every ``exec``, ``shell`` and ``run``, so it imports next to nothing. As long as nobody has
taken the request, whatever is wrong only means that the command line does its work itself.
"""

from __future__ import annotations

# Without the modules around them, which take as long to import as a spare takes to answer.
import _signal  # type: ignore[import-not-found]
import _socket
import os
import sys
import time

from nsharness.background import words
from nsharness.background.place import SOCKET, SWITCH, check, folder

# Not at run time: importing them takes longer than all that is done here.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any, Final


COMMANDS: Final = frozenset({"exec", "run", "shell"})
_ANSWER_SECONDS: Final = 2.0
_CREDENTIALS_BYTES: Final = 12
_LOOK_SECONDS: Final = 0.05
_HALTED: Final = (b"T", b"t", b"Z", b"X", b"")
_FORWARDED: Final = (
    *(_signal.SIGINT, _signal.SIGTERM, _signal.SIGHUP, _signal.SIGQUIT),
    *(_signal.SIGUSR1, _signal.SIGUSR2, _signal.SIGWINCH),
)


def ask(arguments: Sequence[str]) -> int | None:
    """The exit code of the command, which somebody else has run; None if nobody has done anything of it."""
    where = folder() if arguments[0] in COMMANDS and _wanted(arguments) else None
    if where is None:
        return None
    sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET | _socket.SOCK_CLOEXEC)
    signals = None
    answer = b""
    try:
        if _is_ready(sock, where):
            signals = _Signals(sock)
            answer = _answer(sock, arguments)
    except OSError:
        pass
    if signals is not None and answer.startswith(words.TAKEN):
        signals.are_for(int(answer.removeprefix(words.TAKEN)))
        return _stand_in(sock)
    sock.close()
    if signals is not None:
        signals.give_back()
    return None


def _wanted(arguments: Sequence[str]) -> bool:
    if os.environ.get(SWITCH) == "no" or "SUDO_UID" in os.environ:
        return False
    if os.getuid() != os.geteuid() or os.getgid() != os.getegid():
        return False
    # A run that is held asks its terminal whether that is still there, and a spare has none.
    if arguments[0] == "run" and "--hold" in arguments:
        return False
    return not _in_background() and _has_usual_personality()


def _in_background() -> bool:
    """Whether our input is a terminal, and another job in its foreground. A spare is in no session of this
    terminal: nothing would keep it from reading what is typed for that job."""
    try:
        return os.isatty(0) and os.tcgetpgrp(0) != os.getpgrp()
    except OSError:
        return False  # It is nobody's controlling terminal, and has no foreground.


def _has_usual_personality() -> bool:
    """Whether we start programs as is usual (personality(2)): whoever asks for ours may not be told."""
    try:
        with open("/proc/self/personality", "rb") as file:  # noqa: PTH123 - in the way of every command
            return int(file.read(), 16) == 0
    except (OSError, ValueError):
        return False


def _is_ready(sock: _socket.socket, where: str) -> bool:
    check(where)
    sock.settimeout(_ANSWER_SECONDS)
    sock.connect(f"{where}/{SOCKET}")
    if _uid_of(sock) != os.getuid() or sock.recv(words.MAX_WORD) != words.READY + words.build():
        return False
    sock.settimeout(None)
    return True


def _uid_of(sock: _socket.socket) -> int:
    data = sock.getsockopt(_socket.SOL_SOCKET, _socket.SO_PEERCRED, _CREDENTIALS_BYTES)
    return int.from_bytes(data[4:8], sys.byteorder)


def _answer(sock: _socket.socket, arguments: Sequence[str]) -> bytes:
    """Hand over; what the spare says to it. Until it has taken the request, nothing has happened."""
    opened = [os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)]
    try:
        opened.append(os.memfd_create("request", os.MFD_CLOEXEC))
        data = memoryview(_request(arguments).to_bytes())
        while data:
            data = data[os.write(opened[1], data) :]
        passed = b"".join(each.to_bytes(4, sys.byteorder) for each in (*opened, 0, 1, 2))
        sock.sendmsg([words.RUN], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, passed)], _socket.MSG_NOSIGNAL)
    finally:
        for descriptor in opened:
            os.close(descriptor)
    return sock.recv(words.MAX_WORD)


def _request(arguments: Sequence[str]) -> words.Request:
    mask = os.umask(0)
    os.umask(mask)
    streams = [
        (stream.encoding, stream.errors or "strict") if stream is not None else ("utf-8", "strict")
        for stream in (sys.stdin, sys.stdout, sys.stderr)
    ]
    return words.Request([os.fsencode(each) for each in arguments], os.environb, mask, _ignored(), streams)


def _ignored() -> list[int]:
    """The signals that whoever started us wants to be ignored (SigIgn in proc_pid_status(5))."""
    with open("/proc/self/status", "rb") as status:  # noqa: PTH123 - as above
        for line in status:
            if line.startswith(b"SigIgn:"):
                mask = int(line.split()[1], 16)
                return [number for number in range(1, 65) if mask >> (number - 1) & 1]
    return []


class _Signals:
    """The signals that this process is sent are for whoever has the command. From before it is handed over:
    afterwards it would be too late for one that comes at once."""

    __slots__ = ("_before", "_continued", "_early", "_ending", "_pid", "_sock", "_supervisor", "_waits")

    def __init__(self, sock: _socket.socket) -> None:
        self._sock = sock
        self._pid = 0
        self._supervisor = -1
        self._early: list[int] = []
        self._continued = False
        self._ending = False
        self._waits = False
        self._before: dict[int, Any] = {}
        for number in (*_FORWARDED, _signal.SIGTSTP, _signal.SIGCONT):
            before = _signal.getsignal(number)
            if before != _signal.SIG_IGN:
                self._before[number] = before
                _signal.signal(number, self._handle)

    def give_back(self) -> None:
        """Nobody has taken the command: we are as we were."""
        for number, before in self._before.items():
            _signal.signal(number, before)
        for number in self._early:
            os.kill(os.getpid(), number)

    def are_for(self, pid: int) -> None:
        """This process has the command."""
        self._pid = pid
        try:
            self._supervisor = os.pidfd_open(pid)
        except OSError:
            return  # It has ended, which is seen elsewhere.
        for number in self._early:
            self._handle(number)

    def _handle(self, number: int, _: object = None) -> None:
        if number == _signal.SIGTSTP or number == _signal.SIGCONT or number == _signal.SIGWINCH:
            if self._supervisor < 0:
                self._early.append(number)
            elif number == _signal.SIGTSTP:
                self._stop()
            elif number == _signal.SIGCONT:
                self._continued = True
                self._go_on()
            else:
                self._send(number)
        elif self._supervisor < 0:
            # Whoever has it by now sees our end.
            _signal.signal(number, _signal.SIG_DFL)
            os.kill(os.getpid(), number)
        else:
            self._ending = True
            self._send(number)

    def _send(self, number: int) -> None:
        try:  # noqa: SIM105 - that would have to be imported
            self._sock.send(words.SIGNAL + b"%d" % number, _socket.MSG_NOSIGNAL)
        except OSError:
            pass  # As above.

    def _stop(self) -> None:
        """First whoever would go on reading what is now typed for somebody else, then we, unless we are told
        to go on meanwhile: nobody would say so again."""
        self._continued = False
        self._to_supervisor(_signal.SIGSTOP)
        self._await_stop()
        if not self._continued:
            _signal.signal(_signal.SIGTSTP, _signal.SIG_DFL)
            os.kill(os.getpid(), _signal.SIGTSTP)
            # Continued, or not even stopped: without a shell above it, a group is not (setpgid(2)).
            _signal.signal(_signal.SIGTSTP, self._handle)
        self._go_on()

    def _await_stop(self) -> None:
        """A signal is on its way until its process gets round to it: on a busy machine after the next key."""
        end = time.monotonic() + _ANSWER_SECONDS
        while time.monotonic() < end and not self._continued:
            try:
                with open(f"/proc/{self._pid}/stat", "rb") as file:  # noqa: PTH123
                    if file.read().rpartition(b") ")[2][:1] in _HALTED:
                        return
            except OSError:
                pass  # It is not for us to see (hidepid in proc(5)): then time has to do.
            time.sleep(_LOOK_SECONDS / 50)

    def _go_on(self) -> None:
        """Once nobody else's input would be read. A shell may not say when that is: to it, a job of which a
        part runs is a job that runs."""
        if self._waits:
            return  # further up already
        self._waits = True
        while not self._ending and _in_background():
            time.sleep(_LOOK_SECONDS)
        self._waits = False
        self._to_supervisor(_signal.SIGCONT)

    def _to_supervisor(self, number: int) -> None:
        try:  # noqa: SIM105 - as above
            _signal.pidfd_send_signal(self._supervisor, number)
        except OSError:
            pass  # As above.


def _stand_in(sock: _socket.socket) -> int:
    """Until the command has ended."""
    try:
        answer = sock.recv(words.MAX_WORD)
        if answer.startswith(words.EXIT):
            return int(answer.removeprefix(words.EXIT))
    except (OSError, ValueError):
        pass
    print("nsharness: the process that the command was handed to ended unexpectedly", file=sys.stderr)
    return 125
