"""The command line: parse, call, print. Each subcommand imports only what it needs."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType
from typing import NoReturn

from nsharness.errors import NsharnessError

_ENDING_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(BaseException):
    """A signal asks us to end; everything is cleaned up on the way out."""

    def __init__(self, number: int) -> None:
        self.number = number
        super().__init__(number)


def main(arguments: Sequence[str] | None = None) -> int:
    """The console script. Returns the exit code: the workload's own, or 124 to 127 as env(1) uses them."""
    options = _parser().parse_args(arguments)
    for number in _ENDING_SIGNALS:
        signal.signal(number, _interrupt)
    try:
        code = _dispatch(options)
        sys.stdout.flush()
        return code
    except NsharnessError as error:
        print(f"nsharness: {error}", file=sys.stderr)
        return error.exit_code
    except Interrupted as interrupted:
        return 128 + interrupted.number
    except BrokenPipeError:
        # Whoever read our output has gone; nothing more can be said there.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE


def _interrupt(number: int, _: FrameType | None) -> NoReturn:
    # Cleaning up must not be interrupted by an impatient second Ctrl-C.
    for ending in _ENDING_SIGNALS:
        signal.signal(ending, signal.SIG_IGN)
    raise Interrupted(number)


def _dispatch(options: argparse.Namespace) -> int:
    from nsharness.linux.process import make_undumpable

    make_undumpable()
    match options.command:
        case "run":
            from nsharness.cli.run import run

            return run(options)
        case "secret":
            from nsharness.cli.secret import secret

            return secret(options)
        case "ps":
            from nsharness.cli.runs import ps

            return ps(options)
        case "stop":
            from nsharness.cli.runs import stop

            return stop(options)
        case "why":
            from nsharness.cli.why import why

            return why(options)
        case "check":
            from nsharness.cli.check import check

            return check(options)
        case "plan":
            from nsharness.cli.plan import plan

            return plan(options)
        case "diff" | "apply" | "discard":
            from nsharness.cli import changes

            commands = {"diff": changes.diff, "apply": changes.apply, "discard": changes.discard}
            return commands[options.command](options)
        case _:
            from nsharness.cli.enter import enter

            return enter(options)


class _Parser(argparse.ArgumentParser):
    """Reports wrong usage as one line with exit code 125: 2 could be the workload's own."""

    def error(self, message: str) -> NoReturn:
        print(f"{self.prog}: {message} (see {self.prog} --help)", file=sys.stderr)
        sys.exit(125)


def _parser() -> argparse.ArgumentParser:
    from nsharness import __version__

    parser = _Parser(
        prog="nsharness",
        allow_abbrev=False,
        description="Run an agent's shell in namespaces, where it uses credentials that it can never read.",
    )
    parser.add_argument("--version", action="version", version=f"nsharness {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_run(commands)
    _add_secret(commands)

    listing = commands.add_parser("ps", help="list the runs", allow_abbrev=False)
    listing.add_argument("-a", "--all", action="store_true", help="also those that have ended")
    listing.add_argument("--json", action="store_true", help="as one JSON array")

    stopping = commands.add_parser("stop", help="end a run", allow_abbrev=False)
    stopping.add_argument("run", metavar="RUN", help="its id, or how the id begins")

    entering = commands.add_parser(
        "enter", help="run a command in a live sandbox, under the same confinement", allow_abbrev=False
    )
    entering.add_argument("run", metavar="RUN", help="its id, or how the id begins")
    entering.add_argument("argv", metavar="CMD", nargs="+", help="after --: the command and its arguments")
    _add_policy(commands)
    _add_changes(commands)
    return parser


def _add_changes(commands: argparse._SubParsersAction[_Parser]) -> None:
    planning = commands.add_parser("plan", help="show what a sandbox would be", allow_abbrev=False)
    planning.add_argument("--profile", metavar="P", help="as for why")
    planning.add_argument("--json", action="store_true", help="as one JSON object")
    comparing = commands.add_parser("diff", help="show what a run changed in its overlay", allow_abbrev=False)
    applying = commands.add_parser("apply", help="carry a run's changes over", allow_abbrev=False)
    discarding = commands.add_parser("discard", help="throw a run's changes away", allow_abbrev=False)
    for each in (comparing, applying, discarding):
        each.add_argument("run", metavar="RUN", help="its id, or how the id begins")
    form = comparing.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="as one JSON array")
    form.add_argument("--patch", action="store_true", help="with the contents of text files")
    applying.add_argument("path", metavar="PATH", nargs="*", help="only what is at or below these")
    applying.add_argument("--force", action="store_true", help="also over files changed since the run began")
    applying.add_argument("--json", action="store_true", help="as one JSON array")


def _add_policy(commands: argparse._SubParsersAction[_Parser]) -> None:
    where = "a TOML file, or stage4 (default: nsharness.toml in this folder)"
    explaining = commands.add_parser(
        "why", help="explain whether a request would be allowed", allow_abbrev=False
    )
    explaining.add_argument("method", metavar="METHOD", help="taken in upper case")
    explaining.add_argument("url", metavar="URL")
    explaining.add_argument("--profile", metavar="P", help=where)
    explaining.add_argument("--header", metavar="'K: V'", action="append", default=[], help="repeatable")
    explaining.add_argument("--json", action="store_true", help="as one JSON object")
    checking = commands.add_parser("check", help="validate a profile and show it", allow_abbrev=False)
    checking.add_argument("profile", metavar="PROFILE", nargs="?", help=where)
    checking.add_argument("--json", action="store_true", help="as one JSON object")


def _add_run(commands: argparse._SubParsersAction[_Parser]) -> None:
    running = commands.add_parser("run", help="run a stage", allow_abbrev=False)
    running.add_argument("stage", choices=["stage4"], help="stage4: an agent, a wiki, and a token in between")
    running.add_argument("--model", help="scripted (offline, the default), or for instance anthropic:NAME")
    running.add_argument("--out", metavar="DIR", help="copy the summary there")
    running.add_argument("--hold", action="store_true", help="keep the sandbox alive afterwards")


def _add_secret(commands: argparse._SubParsersAction[_Parser]) -> None:
    parser = commands.add_parser("secret", help="keep credentials for profiles", allow_abbrev=False)
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    setting = actions.add_parser("set", help="read a value from standard input", allow_abbrev=False)
    setting.add_argument("name", metavar="NAME")
    setting.add_argument("--key", default="value", help="one of several values of a secret (default: value)")
    actions.add_parser("list", help="names and keys, never values", allow_abbrev=False)
    removing = actions.add_parser("rm", help="forget a secret, or one key of it", allow_abbrev=False)
    removing.add_argument("name", metavar="NAME")
    removing.add_argument("--key", default=None)
