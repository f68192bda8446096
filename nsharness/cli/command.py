"""The command line: parse, call, print. Each subcommand imports only what it needs."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from types import FrameType
from typing import TYPE_CHECKING, Final, NoReturn

from nsharness.cli import EARLY, is_set_id
from nsharness.cli.parser import parser
from nsharness.errors import ASK_DOCTOR, NsharnessError
from nsharness.linux.installation import bytecode_would_be_foreign

if TYPE_CHECKING:
    from nsharness.supervisor.early import Early

_ENDING_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(BaseException):
    """A signal asks us to end; everything is cleaned up on the way out."""

    def __init__(self, number: int) -> None:
        self.number = number
        super().__init__(number)


def main(arguments: Sequence[str] | None = None, early: Early | None = None) -> int:
    """Do what the arguments say, with helpers that have been started ``early``. Returns the exit code: the
    workload's own, or 124 to 127 as env(1) uses them."""
    _leave_no_bytecode_of_root()
    # Before there are models it would look for plugins in every package that is installed.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    try:
        words = sys.argv[1:] if arguments is None else arguments
        wanted = words[0] if words and words[0] in _COMMANDS else None
        options = parser(wanted).parse_args(words)
        for number in _ENDING_SIGNALS:
            # Who started us may want it ignored: nohup(1), or a shell that put us into the background.
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, interrupt)
        code = _dispatch(options, early)
        if sys.stdout is not None:
            sys.stdout.flush()
        return code
    except NsharnessError as error:
        print(f"nsharness: {error}", file=sys.stderr)
        return error.exit_code
    except Interrupted as interrupted:
        return 128 + interrupted.number
    except KeyboardInterrupt:
        return 128 + signal.SIGINT  # before the line above that takes it
    except ImportError as error:
        # Half an installation, or a library of the system's that is not there.
        print(
            f"nsharness: {NsharnessError('cannot load a library', why=str(error), hint=ASK_DOCTOR)}",
            file=sys.stderr,
        )
        return 125
    except BrokenPipeError:
        # Whoever read our output has gone; nothing more can be said there.
        _abandon_output()
        return 128 + signal.SIGPIPE
    except OSError as error:
        # A full disk, a full output file, too many open files: nobody's mistake in this program.
        _abandon_output()
        where = f" ({error.filename})" if error.filename else ""
        print(
            f"nsharness: {NsharnessError('cannot go on', why=f'{error.strerror or error}{where}')}",
            file=sys.stderr,
        )
        return 125


def _abandon_output() -> None:
    """What is still unwritten goes nowhere, instead of failing once more when the interpreter ends."""
    if sys.stdout is not None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _leave_no_bytecode_of_root() -> None:
    """Root in somebody else's installation writes no bytecode there: its owner could not remove it again.

    What the imports before this line have written already is given to the owner of the source.
    """
    if not bytecode_would_be_foreign():
        return
    from pathlib import Path

    sys.dont_write_bytecode = True
    for module in list(sys.modules.values()):
        spec = getattr(module, "__spec__", None)
        source, bytecode = getattr(spec, "origin", None), getattr(spec, "cached", None)
        if not isinstance(source, str) or not isinstance(bytecode, str):
            continue
        with contextlib.suppress(OSError):
            owner = Path(source).stat()
            for path in (Path(bytecode), Path(bytecode).parent):
                if path.lstat().st_uid == 0 != owner.st_uid:
                    os.lchown(path, owner.st_uid, owner.st_gid)


def interrupt(number: int, _: FrameType | None) -> NoReturn:
    # Cleaning up must not be interrupted by an impatient second Ctrl-C.
    for ending in _ENDING_SIGNALS:
        signal.signal(ending, signal.SIG_IGN)
    raise Interrupted(number)


# Where the commands are, and what they are called there when that is not their own name.
_COMMANDS: Final = {
    "apply": ("changes", ""),
    "approve": ("approve", ""),
    "check": ("check", ""),
    "diff": ("changes", ""),
    "down": ("background", ""),
    "discard": ("changes", ""),
    "doctor": ("doctor", ""),
    "enter": ("enter", ""),
    "exec": ("execute", "execute"),
    "gc": ("gc", ""),
    "learn": ("learn", ""),
    "init": ("presets", ""),
    "mcp": ("mcp", ""),
    "plan": ("plan", ""),
    "presets": ("presets", ""),
    "ps": ("runs", ""),
    "reload": ("runs", ""),
    "run": ("run", ""),
    "schema": ("schema", ""),
    "secret": ("secret", ""),
    "shell": ("execute", "execute"),
    "stop": ("runs", ""),
    "trust": ("trust", ""),
    "up": ("background", ""),
    "why": ("why", ""),
}
_WAITING: Final = frozenset({"enter", "exec", "learn", "mcp", "run", "shell"})
"""Commands that wait for others, in which a signal must not wait as well."""
_PERHAPS_PLAIN: Final = frozenset({"exec", "shell"})
"""Of those that make a sandbox, those that may do so without waiting for its proxy."""


def _dispatch(options: argparse.Namespace, early: Early | None = None) -> int:
    name: str = options.command
    if name != "doctor":
        # That one asks whether python-prctl loads at all.
        from nsharness.linux.process import make_undumpable

        make_undumpable()
    if name not in EARLY or is_set_id():
        return _call(name, options)
    if early is not None:
        return _with(early, name, options)
    from nsharness.supervisor.early import Early as Helpers

    with Helpers() as helpers:
        return _with(helpers, name, options)


def _with(early: Early, name: str, options: argparse.Namespace) -> int:
    options.early = early
    if name not in _PERHAPS_PLAIN:
        early.start_proxy()
    return _call(name, options)


def _call(name: str, options: argparse.Namespace) -> int:
    module, function = _COMMANDS[name]
    command: Callable[[argparse.Namespace], int] = getattr(
        import_module(f"nsharness.cli.{module}"), function or name
    )
    if name not in _WAITING:
        return command(options)
    from nsharness.linux.signals import prompt_handlers

    with prompt_handlers():
        return command(options)
