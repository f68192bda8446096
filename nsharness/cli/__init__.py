"""The command line. What is here is on the way of every command, also of one that somebody else runs for us
(``nsharness.background``): it imports next to nothing."""

from __future__ import annotations

import os
import sys

# Not at run time: importing them takes longer than all that is done here.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """The console script. Returns the exit code: the workload's own, or 124 to 127 as env(1) uses them."""
    _open_standard_streams()
    if sys.version_info < (3, 12):  # noqa: UP036 - started by another interpreter than it was installed for
        print(
            f"nsharness: Python {sys.version.split()[0]} is too old (use CPython 3.12 or newer)",
            file=sys.stderr,
        )
        return 125
    if arguments is None and sys.argv[1:]:
        from nsharness.background.client import ask

        code = ask(sys.argv[1:])
        if code is not None:
            return code
    from nsharness.cli.command import main as command

    return command(arguments)


def _open_standard_streams() -> None:
    """A stream that is closed would be the next file that we open, and that may hold a secret."""
    for place in range(3):
        try:
            os.fstat(place)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # The lowest free number: this one.
