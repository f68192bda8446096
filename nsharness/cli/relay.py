"""Copies between the caller's standard streams and a program in a sandbox, which never gets those streams.

A regular file that was handed over could be opened anew for writing through ``/proc/self/fd``, a directory
leads to the host's root, a terminal can be typed into: so the program gets pipes, or a terminal of its own
when ours is one, and bytes are copied. Each stream has a thread: none has to wait for another.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import signal
import struct
import termios
import threading
import time
import tty
from collections.abc import Callable, Iterator
from functools import partial
from types import TracebackType
from typing import Any, Final, Protocol

from nsharness.linux import fds
from nsharness.supervisor.init import Terminal

_CHUNK: Final = 1 << 18
_PIPE_BYTES: Final = 1 << 20
_JOIN_SECONDS: Final = 0.1
_REDRAW_SECONDS: Final = 0.05


class Output(Protocol):
    """Something that takes what a program writes."""

    def write(self, data: bytes) -> None: ...


class Kept:
    """In the place of an output stream: the first ``limit`` bytes."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.content = bytearray()
        self.cut = False

    def write(self, data: bytes) -> None:
        """Keep what there is room for."""
        room = max(0, self._limit - len(self.content))
        self.content += data[:room]
        self.cut = self.cut or len(data) > room


class Relay:
    """A context manager: what a program gets in place of 0, 1 and 2, and the copying.

    ``descriptors`` and ``terminal`` are for whoever starts the program; ``start`` begins the copying once it
    runs, ``finish`` is for when it has ended. Leaving the block gives our own terminal its settings back.
    """

    def __init__(
        self, owner: tuple[int, int] | None = None, outputs: tuple[Output, Output] | None = None
    ) -> None:
        """``owner`` is whom the pipes belong to, when we are not that user; ``outputs`` take what the program
        writes in place of our own output, and then there is no terminal."""
        # Held by whoever has the terminal to itself for a while; and the way there, past a program that
        # writes without end: who writes next waits behind who waits already.
        self._quiet, self._turn = threading.Lock(), threading.Lock()
        self._keys: Callable[[bytes], None] | None = None
        self._sinks: dict[int, Callable[[bytes], None]] = {
            place: outputs[place - 1].write if outputs else self._aloud(_writer(place)) for place in (1, 2)
        }
        streams = tuple(place for place in range(3) if os.isatty(place))
        # Half a terminal is none: a program that asks (isatty(3)) looks at its input or at its output.
        self.terminal = None
        if outputs is None and {0, 1} <= set(streams):
            self.terminal = Terminal(*_window(0), streams=streams)
        self._settings: list[Any] | None = None
        self._opened: list[int] = []
        self._threads: list[threading.Thread] = []
        self._outputs: list[threading.Thread] = []
        self._master: int | None = None
        self._ours: dict[int, int] = {}
        theirs: dict[int, int] = {}
        for place in range(3):
            if self.terminal is None or place not in self.terminal.streams:
                reading, writing = self._pipe(owner)
                self._ours[place], theirs[place] = (reading, writing) if place else (writing, reading)
        self.descriptors = [theirs[place] for place in sorted(theirs)]
        self._stop, self._running = self._pipe(None)

    def _pipe(self, owner: tuple[int, int] | None) -> tuple[int, int]:
        reading, writing = os.pipe2(os.O_CLOEXEC)
        self._opened += (reading, writing)
        with contextlib.suppress(OSError):  # Over the user's share of pipe memory: a small one does as well.
            fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        if owner is not None:
            os.fchown(reading, *owner)
        return reading, writing

    @property
    def environment(self) -> dict[str, str]:
        """What the program's environment should say about its terminal."""
        wanted = ("TERM", "COLORTERM") if self.terminal else ()
        found = {name: os.environ[name] for name in wanted if name in os.environ}
        return {name: value for name, value in found.items() if value.isprintable() and len(value) < 100}

    def __enter__(self) -> Relay:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._settings is not None:
            signal.signal(signal.SIGWINCH, signal.SIG_DFL)
            with contextlib.suppress(termios.error):
                termios.tcsetattr(0, termios.TCSADRAIN, self._settings)
        self._close(self._running)
        for thread in self._threads:
            thread.join(_JOIN_SECONDS)
        # One that still waits to write has something to write to: it ends with this process.
        if not any(thread.is_alive() for thread in self._threads):
            fds.close_all([*self._opened, *([] if self._master is None else [self._master])])

    def start(self, master: int | None = None) -> None:
        """The program runs; ``master`` is the other end of its terminal, ours to close from now on."""
        for descriptor in self.descriptors:
            self._close(descriptor)
        if master is not None:
            self._master = master
            self._settings = termios.tcgetattr(0)
            tty.setraw(0, termios.TCSADRAIN)  # what was typed meanwhile is for the program
            signal.signal(signal.SIGWINCH, self._resize)
            self._resize()
            self._copy(0, self._keyed(_writer(master)), lambda: None)
            self._outputs.append(self._copy(master, self._sinks[1], lambda: None))
        for place, descriptor in self._ours.items():
            # Closed when nobody reads what we write, too: the program learns of it as it would without us.
            end = partial(self._close, descriptor)
            if place == 0:
                self._copy(0, _writer(descriptor), end)
            else:
                self._outputs.append(self._copy(descriptor, self._sinks[place], end))

    @property
    def has_terminal(self) -> bool:
        """Whether the program runs in a terminal of its own, and ours can be had with ``held``."""
        return self._master is not None

    @contextlib.contextmanager
    def held(self, keys: Callable[[bytes], None]) -> Iterator[Callable[[str], None]]:
        """Within the block our terminal is the caller's: what the program writes waits, what is typed goes to
        ``keys``, and the function that is given writes. Afterwards the program is told to draw anew."""
        write = _writer(1)

        def say(text: str) -> None:
            with contextlib.suppress(OSError):
                write(text.encode())

        with self._turn, self._quiet:
            self._keys = keys
            try:
                yield say
            finally:
                self._keys = None
        if self._master is not None:
            # Whoever draws a whole screen does so when its size changes (SIGWINCH), not when it stays.
            with contextlib.suppress(OSError):
                rows, columns = _window(0)
                for height in (rows - 1, rows):
                    size = struct.pack("=HHHH", height, columns, 0, 0)
                    fcntl.ioctl(self._master, termios.TIOCSWINSZ, size)
                    time.sleep(_REDRAW_SECONDS)  # Two changes at once would be none.

    def _aloud(self, sink: Callable[[bytes], None]) -> Callable[[bytes], None]:
        def write(data: bytes) -> None:
            with self._turn:
                pass
            with self._quiet:
                sink(data)

        return write

    def _keyed(self, sink: Callable[[bytes], None]) -> Callable[[bytes], None]:
        def write(data: bytes) -> None:
            (self._keys or sink)(data)

        return write

    def finish(self) -> None:
        """The program has ended: copy what it left in the pipes. What runs on in the background may hold
        them for ever, and is not waited for."""
        self._close(self._running)
        for thread in self._outputs:
            thread.join()

    def _copy(self, source: int, sink: Callable[[bytes], None], end: Callable[[], None]) -> threading.Thread:
        thread = threading.Thread(target=_copy, args=(source, sink, self._stop, end), daemon=True)
        self._threads.append(thread)
        thread.start()
        return thread

    def _close(self, descriptor: int) -> None:
        with contextlib.suppress(ValueError):  # Closed before: its number may be somebody else's by now.
            self._opened.remove(descriptor)
            os.close(descriptor)

    def _resize(self, *_: object) -> None:
        assert self._master is not None
        with contextlib.suppress(OSError):
            fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("=HHHH", *_window(0), 0, 0))


def _copy(source: int, sink: Callable[[bytes], None], stop: int, end: Callable[[], None]) -> None:
    """Until either side ends; after ``stop`` only what is there already."""
    poll = select.poll()
    poll.register(source, select.POLLIN)
    poll.register(stop, 0)  # Its other end is closed: a hang-up, which is always reported.
    left = _PIPE_BYTES
    with contextlib.suppress(OSError):
        while True:
            ready = {descriptor for descriptor, _ in poll.poll()}
            if stop in ready and (source not in ready or left <= 0):
                break
            try:
                data = os.read(source, _CHUNK)
            except BlockingIOError:
                continue
            if not data:
                break
            if stop in ready:
                left -= len(data)
            sink(data)
    end()


def _writer(descriptor: int) -> Callable[[bytes], None]:
    def write(data: bytes) -> None:
        view = memoryview(data)
        while view:
            try:
                view = view[os.write(descriptor, view) :]
            except BlockingIOError:
                # Somebody who shares our output made it non-blocking.
                fds.await_writable(descriptor, None)

    return write


def _window(descriptor: int) -> tuple[int, int]:
    """Rows and columns; the customary ones where a terminal does not say."""
    rows, columns, _, _ = struct.unpack("=HHHH", fcntl.ioctl(descriptor, termios.TIOCGWINSZ, bytes(8)))
    return rows or 24, columns or 80
