"""A person's terminal, with nsharness in it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import select
import struct
import termios
import time
from collections.abc import Callable, Iterator, Sequence

import pytest

from tests.support.program import Program

CONTROL = re.compile(r"\x1b\[[<=>?0-9;]*[a-zA-Z]")


class Terminal:
    """A person's terminal with nsharness in it."""

    def __init__(self, program: Program, arguments: Sequence[str]) -> None:
        self.pid, self.master = pty.fork()
        if self.pid == 0:
            try:
                os.chdir("/")
                argv = program.argv(arguments)
                os.execve(argv[0], argv, {**program.environment, "TERM": "xterm-256color"})
            finally:
                os._exit(127)
        self.text = ""

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("=HHHH", rows, columns, 0, 0))

    def type(self, keys: str) -> None:
        os.write(self.master, keys.encode())

    def expect(self, pattern: str) -> re.Match[str]:
        """The next match in what is shown, once it is there; what is before it is taken with it."""
        end = time.monotonic() + 60
        while (match := re.search(pattern, self.text)) is None:
            ready = select.select([self.master], [], [], max(0.0, end - time.monotonic()))[0]
            assert ready, f"never came: {pattern}\n{self.text}"
            try:
                new = os.read(self.master, 65536).decode(errors="replace")
                self.text = CONTROL.sub("", self.text + new).replace("\r", "")
            except OSError:
                pytest.fail(f"the terminal ended before {pattern} came:\n{self.text}")
        self.text = self.text[match.end() :]
        return match

    def wait(self) -> int:
        """Its exit code. What it still says is taken, or it could not end."""
        while select.select([self.master], [], [], 60)[0]:
            try:
                self.text += os.read(self.master, 65536).decode(errors="replace")
            except OSError:
                break
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


@contextlib.contextmanager
def terminals(program: Program) -> Iterator[Callable[..., Terminal]]:
    """Within the block the given function opens one with a command line of nsharness in it."""
    opened: list[Terminal] = []

    def start(*arguments: str) -> Terminal:
        opened.append(Terminal(program, arguments))
        return opened[-1]

    yield start
    for terminal in opened:
        with contextlib.suppress(OSError):
            os.close(terminal.master)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(terminal.pid, 0)
