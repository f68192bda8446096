"""The command line. What is here is on the way of every command, also of one that somebody else runs for us
(``nsharness.background``): it imports next to nothing."""

from __future__ import annotations

import os
import sys

# Not at run time: importing them takes longer than all that is done here.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

EARLY = frozenset({"exec", "learn", "mcp", "run", "shell"})
"""Commands that need a zygote whatever their arguments say."""
_UNFLUSHED = 120
"""The interpreter's own exit code when output was left that nobody took."""


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code: the workload's own, or 124 to 127 as env(1) uses them.

    Without ``arguments`` this is the console script, and what is left of the process ends here, too: taking
    the interpreter apart would take as long as the start of a sandbox.
    """
    code = _run(arguments)
    if arguments is None:
        _leave(code)
    return code


def _run(arguments: Sequence[str] | None) -> int:
    _open_standard_streams()
    if sys.version_info < (3, 12):  # noqa: UP036 - started by another interpreter than it was installed for
        print(
            f"nsharness: Python {sys.version.split()[0]} is too old (use CPython 3.12 or newer)",
            file=sys.stderr,
        )
        return 125
    if (sys.argv[1:] if arguments is None else arguments) == ["--version"]:
        from nsharness import __version__

        print(f"nsharness {__version__}")
        return 0
    if arguments is None and sys.argv[1:]:
        from nsharness.background.client import ask

        code = ask(sys.argv[1:])
        if code is not None:
            return code
        if sys.argv[1] in EARLY and not is_set_id():
            return _with_helpers()
    from nsharness.cli.command import main as command

    return command(arguments)


def _with_helpers() -> int:
    """While helper processes import, so do we: they are started before what reads the arguments is loaded."""
    from nsharness.supervisor.early import Early

    with Early() as early:
        from nsharness.cli.command import main as command

        return command(None, early)


def is_set_id() -> bool:
    """Whether the file that was started gives us rights that whoever started it has not: nothing is done
    then."""
    return os.getuid() != os.geteuid() or os.getgid() != os.getegid()


def _leave(code: int) -> None:
    """End, as the interpreter does as far as anybody outside can tell. Whatever has a life has ended."""
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except (OSError, ValueError):
            # Whatever ended the run has taken the terminal, too: then that is the better answer.
            code = code or _UNFLUSHED
    os._exit(code & 0xFF)


def _open_standard_streams() -> None:
    """A stream that is closed would be the next file that we open, and that may hold a secret."""
    for place in range(3):
        try:
            os.fstat(place)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # The lowest free number: this one.
