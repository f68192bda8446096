"""A terminal of the sandbox's own: job control, its window, and no way to the caller's."""

from __future__ import annotations

import os
import re
import select
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from nsharness.supervisor.init import Process, Terminal
from tests.support.sandboxes import Box, needs_sandbox
from tests.support.waiting import DEADLINE, readable

pytestmark = needs_sandbox


class Screen:
    """The other end of a program's terminal."""

    def __init__(self, process: Process) -> None:
        assert process.master is not None
        self.process = process
        self.master = process.master
        self.text = ""

    def type(self, keys: str) -> None:
        os.write(self.master, keys.encode())

    def expect(self, pattern: str) -> re.Match[str]:
        """What comes until it matches; the terminal's own line ends made plain."""
        while (match := re.search(pattern, self.text)) is None:
            assert readable(self.master, DEADLINE), f"never came: {pattern}\n{self.text}"
            try:
                self.text += os.read(self.master, 65536).decode(errors="replace").replace("\r\n", "\n")
            except OSError:
                pytest.fail(f"the terminal ended before {pattern} came:\n{self.text}")
        self.text = self.text[match.end() :]
        return match


@pytest.fixture
def on_screen(box: Box) -> Iterator[Callable[..., Screen]]:
    opened: list[Screen] = []

    def start(*argv: str, rows: int = 24, columns: int = 80) -> Screen:
        opened.append(Screen(box.spawn(argv, [], terminal=Terminal(rows, columns))))
        return opened[-1]

    yield start
    for screen in opened:
        box.init.signal(screen.process, 9, group=True)
        assert screen.process.ended.wait(DEADLINE)
        os.close(screen.master)


def test_a_program_has_a_terminal_that_is_its_own(on_screen: Callable[..., Screen]) -> None:
    screen = on_screen(
        "bash", "-c", "tty; stty size; echo >/dev/tty seen; ps -o tty= -p $$", rows=7, columns=33
    )
    screen.expect(r"/dev/pts/\d+\n")
    screen.expect("^7 33\n")
    screen.expect("^seen\n")
    screen.expect(r"^pts/\d+")


def test_keys_are_signals_for_the_foreground_alone(on_screen: Callable[..., Screen]) -> None:
    screen = on_screen("bash", "--norc", "-i")
    # From inside the foreground group: what is typed before it is there, or there again, reaches nobody.
    script = "trap 'echo $((2 + 2)) back' CONT; echo $((1 + 1)) there; while :; do :; done"
    screen.type(f'sh -c "{script.replace("$", chr(92) + "$")}"\n')
    screen.expect("\n2 there\n")
    screen.type("\x1a")
    screen.expect("Stopped")
    screen.type("fg\n")
    screen.expect("\n4 back\n")
    screen.type("\x03")
    screen.expect(r"\^C\n[^\n]*[$#] ")  # what is typed before bash asks again may be thrown away
    screen.type("echo status=$?\n")
    screen.expect("\nstatus=130\n")
    screen.type("exit 9\n")
    assert screen.process.ended.wait(DEADLINE)
    assert screen.process.status == 9


def test_standard_error_may_go_elsewhere(box: Box) -> None:
    reading, writing = os.pipe()
    os.fchown(reading, *(box._session.identity.drop_to or (-1, -1)))
    process = box.spawn(
        ["sh", "-c", "test -t 0 && test -t 1 && ! test -t 2 && echo apart >&2"],
        [writing],
        terminal=Terminal(streams=(0, 1)),
    )
    os.close(writing)
    assert process.ended.wait(DEADLINE)
    assert (process.status, os.read(reading, 100)) == (0, b"apart\n")
    assert process.master is not None
    os.close(process.master)
    os.close(reading)


def test_a_terminal_that_goes_away_hangs_its_session_up(box: Box) -> None:
    process = box.spawn(["bash", "-c", "echo ready; sleep 1000; true"], [], terminal=Terminal())
    assert process.master is not None
    assert readable(process.master, DEADLINE)
    os.close(process.master)
    assert process.ended.wait(DEADLINE)
    assert process.status == -1


@contextmanager
def of_ours() -> Iterator[tuple[int, int]]:
    """A terminal that stands for the caller's."""
    master, slave = os.openpty()
    try:
        yield master, slave
    finally:
        os.close(master)
        os.close(slave)


TYPE_INTO = """
import fcntl, os, sys, termios
for place in range(3):
    try:
        os.setsid() if place == 0 and os.getpid() != os.getsid(0) else None
        fcntl.ioctl(place, termios.TIOCSCTTY, 1)
    except OSError: pass
    try: fcntl.ioctl(place, termios.TIOCSTI, b"x")
    except OSError as error: print(place, error.strerror)
    else: print(place, "typed")
"""


def test_nothing_can_be_typed_into_the_callers_terminal(
    box: Box, python: str, on_screen: Callable[..., Screen]
) -> None:
    """K24, CVE-2017-5226. No descriptor of the sandbox is that terminal: there is nothing to type into."""
    with of_ours() as (master, slave):
        screen = on_screen(python, "-c", TYPE_INTO)
        screen.expect("2 ")
        assert not select.select([master, slave], [], [], 0)[0]
        ours = os.fstat(slave)
        inside = box.out(
            "for f in /proc/self/fd/* /dev/pts/*; do stat -L -c '%d:%r' $f 2>/dev/null; done; true"
        )
        assert f"{ours.st_dev}:{ours.st_rdev}" not in inside.split()
