"""A terminal of the sandbox's own: both ends of a pair from its private devpts.

The workload never holds the caller's terminal, into which it could type (TIOCSTI, K24) and whose other
programs it could disturb. The master goes to the supervisor, which copies bytes and nothing else.
"""

from __future__ import annotations

import fcntl
import os
import struct
import termios
from typing import Final

_PTMX: Final = "/dev/pts/ptmx"
_TIOCSPTLCK: Final = 0x40045431  # ioctl_tty(2); the same number on every architecture that we run on
_TIOCGPTPEER: Final = 0x5441


def open_pair(rows: int, columns: int) -> tuple[int, int]:
    """Master and slave, both close-on-exec, with that window size. ``OSError`` as the kernel gives it.

    The slave is opened through the master and not by its name, which may lead somewhere else by then
    (TIOCGPTPEER in ioctl_tty(2)).
    """
    flags = os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC
    master = os.open(_PTMX, flags)
    try:
        fcntl.ioctl(master, _TIOCSPTLCK, struct.pack("=i", 0))
        fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("=HHHH", rows, columns, 0, 0))
        return master, fcntl.ioctl(master, _TIOCGPTPEER, flags)
    except BaseException:
        os.close(master)
        raise


def take(slave: int) -> None:
    """Make it the controlling terminal of the calling session leader, whose group becomes the foreground."""
    fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
