"""The command line's side: hand everything to a spare and stand in for it, or say that nobody is there.

On the way of every ``exec``, ``shell`` and ``run``, so it imports next to nothing. As long as nobody has
taken the request, whatever is wrong only means that the command line does its work itself.
"""

from __future__ import annotations

# socket(7) without the module around it, which takes as long to import as a spare takes to answer.
import _socket
import os
import sys

from nsharness.background import words
from nsharness.background.place import SOCKET, SWITCH, check, folder

# Not at run time: importing them takes longer than all that is done here.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Final


COMMANDS: Final = frozenset({"exec", "run", "shell"})
_ANSWER_SECONDS: Final = 2.0
_CREDENTIALS_BYTES: Final = 12


def ask(arguments: Sequence[str]) -> int | None:
    """The exit code of the command, which somebody else has run; None if nobody has done anything of it."""
    where = folder() if arguments[0] in COMMANDS and _wanted() else None
    if where is None:
        return None
    sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET | _socket.SOCK_CLOEXEC)
    try:
        taken = _is_taken(sock, where, arguments)
    except OSError:
        taken = False
    if not taken:
        sock.close()
        return None
    return _stand_in(sock)


def _wanted() -> bool:
    if os.environ.get(SWITCH) == "no" or "SUDO_UID" in os.environ:
        return False
    if os.getuid() != os.geteuid() or os.getgid() != os.getegid():
        return False
    try:
        # A spare is in no session of this terminal: nothing would keep it from reading what is typed for
        # the job in the foreground.
        return not os.isatty(0) or os.tcgetpgrp(0) == os.getpgrp()
    except OSError:
        return True  # It is nobody's controlling terminal, and has no foreground.


def _is_taken(sock: _socket.socket, where: str, arguments: Sequence[str]) -> bool:
    check(where)
    sock.settimeout(_ANSWER_SECONDS)
    sock.connect(f"{where}/{SOCKET}")
    if _uid_of(sock) != os.getuid() or sock.recv(words.MAX_WORD) != words.READY + words.build():
        return False
    sock.settimeout(None)
    return _hand_over(sock, arguments)


def _uid_of(sock: _socket.socket) -> int:
    data = sock.getsockopt(_socket.SOL_SOCKET, _socket.SO_PEERCRED, _CREDENTIALS_BYTES)
    return int.from_bytes(data[4:8], sys.byteorder)


def _hand_over(sock: _socket.socket, arguments: Sequence[str]) -> bool:
    """Whether a spare has taken it; until it has, nothing has happened."""
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
    return sock.recv(words.MAX_WORD) == words.TAKEN


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


def _stand_in(sock: _socket.socket) -> int:
    """Until the command has ended: every signal goes on to it."""
    # Now there is time for imports: the command is on its way.
    import signal
    from contextlib import suppress

    def forward(number: int, _: object) -> None:
        with suppress(OSError):
            sock.send(words.SIGNAL + b"%d" % number, _socket.MSG_NOSIGNAL)

    names = ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2", "SIGWINCH")
    for number in (getattr(signal, name) for name in names):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, forward)
    with suppress(OSError, ValueError):
        answer = sock.recv(words.MAX_WORD)
        if answer.startswith(words.EXIT):
            return int(answer.removeprefix(words.EXIT))
    print("nsharness: the process that the command was handed to ended unexpectedly", file=sys.stderr)
    return 125
