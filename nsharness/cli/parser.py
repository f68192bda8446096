"""The arguments of the command line."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from functools import cache
from typing import Any, NoReturn, cast


class _Parser(argparse.ArgumentParser):
    """Reports wrong usage as one line with exit code 125: 2 could be the workload's own."""

    def error(self, message: str) -> NoReturn:
        print(f"{self.prog}: {message} (see {self.prog} --help)", file=sys.stderr)
        sys.exit(125)


class _Ignored:
    """In the place of a parser that nobody needs: takes whatever is added to it."""

    def __getattr__(self, _: str) -> Callable[..., _Ignored]:
        return lambda *_, **__: self


class _Commands:
    """The commands' parsers; where one is ``wanted``, that one alone."""

    def __init__(self, made: argparse._SubParsersAction[_Parser], wanted: str | None) -> None:
        self._made = made
        self._wanted = wanted

    def add_parser(self, name: str, **settings: Any) -> _Parser:
        """As of argparse."""
        if self._wanted in (None, name):
            return self._made.add_parser(name, **settings)
        return cast("_Parser", _Ignored())


@cache
def parser(wanted: str | None = None) -> argparse.ArgumentParser:
    """Of all commands, or of the one that is ``wanted``, which takes a tenth of the time."""
    from nsharness import __version__

    made = _Parser(
        prog="nsharness",
        allow_abbrev=False,
        description="Run an agent's shell in namespaces, where it uses credentials that it can never read.",
    )
    made.add_argument("--version", action="version", version=f"nsharness {__version__}")
    commands = _Commands(made.add_subparsers(dest="command", required=True, metavar="COMMAND"), wanted)
    _add_run(commands)
    _add_exec(commands)
    _add_secret(commands)

    listing = commands.add_parser("ps", help="list the runs", allow_abbrev=False)
    listing.add_argument("-a", "--all", action="store_true", help="also those that have ended")
    listing.add_argument("--json", action="store_true", help="as one JSON array")

    stopping = commands.add_parser("stop", help="end a run", allow_abbrev=False)
    stopping.add_argument("run", metavar="RUN", help="its id, or how the id begins")

    collecting = commands.add_parser(
        "gc", help="remove what killed runs have left behind", allow_abbrev=False
    )
    collecting.add_argument("--dry-run", action="store_true", help="only say what would be removed")
    collecting.add_argument("--json", action="store_true", help="as one JSON array")

    reloading = commands.add_parser("reload", help="let a run read its profile again", allow_abbrev=False)
    reloading.add_argument("run", metavar="RUN", help="its id, or how the id begins")

    approving = commands.add_parser(
        "approve", help="answer a run's questions about hosts that no rule names", allow_abbrev=False
    )
    approving.add_argument("run", metavar="RUN", help="its id, or how the id begins")
    approving.add_argument("host", metavar="HOST", nargs="?", help="default: list what was asked")
    approving.add_argument("answer", metavar="ANSWER", nargs="?", choices=["once", "always", "never"])
    approving.add_argument("--json", action="store_true", help="list as one JSON array")

    entering = commands.add_parser(
        "enter", help="run a command in a live sandbox, under the same confinement", allow_abbrev=False
    )
    entering.add_argument("run", metavar="RUN", help="its id, or how the id begins")
    entering.add_argument("argv", metavar="CMD", nargs="+", help="after --: the command and its arguments")
    _add_presets(commands)
    _add_policy(commands)
    _add_changes(commands)
    _add_doctor(commands)
    _add_background(commands)
    return made


def _add_background(commands: _Commands) -> None:
    starting = commands.add_parser(
        "up",
        help="start the background supervisor, from which exec, shell and run start at once",
        allow_abbrev=False,
    )
    starting.add_argument(
        "--idle", metavar="S", type=_seconds, default=900.0, help="end after S seconds without use"
    )
    starting.add_argument(
        "--spares", metavar="N", type=_spares, default=1, help="runs that are kept ready, 1 to 16"
    )
    starting.add_argument("--foreground", action="store_true", help="do not go into the background")
    starting.add_argument("--systemd", action="store_true", help="only print units for systemctl --user")
    commands.add_parser("down", help="end the background supervisor; runs go on", allow_abbrev=False)


def _spares(text: str) -> int:
    if not text.isdigit() or not 1 <= int(text) <= 16:
        raise argparse.ArgumentTypeError("give a number from 1 to 16")
    return int(text)


def _add_exec(commands: _Commands) -> None:
    executing = commands.add_parser("exec", help="run a command in a sandbox of its own", allow_abbrev=False)
    executing.add_argument("argv", metavar="CMD", nargs="+", help="after --: the command and its arguments")
    shell = commands.add_parser("shell", help="an interactive bash in a sandbox", allow_abbrev=False)
    learning = commands.add_parser(
        "learn", help="run a command with every public host open, and propose a profile", allow_abbrev=False
    )
    learning.add_argument("argv", metavar="CMD", nargs="+", help="after --: the command and its arguments")
    learning.add_argument("--out", metavar="FILE", help="write the profile there instead of printing it")
    learning.set_defaults(json=False, ask=False)
    serving = commands.add_parser(
        "mcp", help="a sandbox for an MCP client, on standard input and output", allow_abbrev=False
    )
    for parser in (executing, shell, learning, serving):
        add = parser.add_argument
        add("--profile", metavar="P", help="a TOML file (default: nsharness.toml here or above)")
        add("--allow", metavar="HOST", action="append", default=[], help="allow a host, HOST or HOST:PORT")
        add(
            "--inject",
            metavar="RULE",
            action="append",
            default=[],
            help="'HOST: HEADER = VALUE with {{ secret-name.key }}'",
        )
        add("--preset", metavar="NAME", action="append", default=[], help="add what a preset allows")
        add("--ro", metavar="PATH", action="append", default=[], help="a path that the command may read")
        add("--rw", metavar="PATH", action="append", default=[], help="a path that it may write to as well")
        if parser is not serving:
            add("--env", metavar="K[=V]", action="append", default=[], help="a variable for the command")
            add(
                "--timeout",
                metavar="S",
                type=_seconds,
                help="end everything after S seconds, with exit code 124",
            )
        if parser is not learning:
            add("--ask", action="store_true", help="ask about hosts that no rule names (see approve)")
        if parser in (executing, shell):
            add("--json", action="store_true", help="print one JSON object with output and outcome instead")
        add_user(parser)
        add("--no-workspace", action="store_true", help="do not share the working directory")
        add("-v", "--verbose", action="store_true", help="say on standard error what happens")
    trusting = commands.add_parser(
        "trust", help="take a profile that a workload could write", allow_abbrev=False
    )
    trusting.add_argument(
        "profile", metavar="PROFILE", nargs="?", default=None, help="default: nsharness.toml"
    )


def _add_presets(commands: _Commands) -> None:
    commands.add_parser("presets", help="list the ready-made parts of profiles", allow_abbrev=False)
    starting = commands.add_parser(
        "init", help="write an nsharness.toml here, with comments", allow_abbrev=False
    )
    starting.add_argument(
        "--preset", metavar="NAME", action="append", default=[], help="with what a preset allows; repeatable"
    )


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 < value < 1e8:
        raise ValueError(text)
    return value


def _add_doctor(commands: _Commands) -> None:
    parser = commands.add_parser(
        "doctor", help="say what this machine allows, and what to do about the rest", allow_abbrev=False
    )
    output = parser.add_mutually_exclusive_group()
    output.add_argument("--json", action="store_true", help="as one JSON object")
    output.add_argument(
        "--apparmor-profile", action="store_true", help="print a profile that allows user namespaces"
    )


def _add_changes(commands: _Commands) -> None:
    planning = commands.add_parser("plan", help="show what a sandbox would be", allow_abbrev=False)
    planning.add_argument("--profile", metavar="P", help="as for why")
    planning.add_argument("--json", action="store_true", help="as one JSON object")
    _add_preset(planning)
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


def _add_policy(commands: _Commands) -> None:
    where = "a TOML file, a name in ~/.config/nsharness, or stage4 (default: nsharness.toml in this folder)"
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
    _add_preset(explaining)
    _add_preset(checking)
    commands.add_parser("schema", help="print the JSON Schema of profiles", allow_abbrev=False)


def _add_preset(parser: _Parser) -> None:
    parser.add_argument(
        "--preset", metavar="NAME", action="append", default=[], help="with what a preset adds; repeatable"
    )


def _add_run(commands: _Commands) -> None:
    running = commands.add_parser("run", help="run a stage", allow_abbrev=False)
    running.add_argument("stage", choices=["stage4"], help="stage4: an agent, a wiki, and a token in between")
    running.add_argument("--model", help="scripted (offline, the default), or for instance anthropic:NAME")
    running.add_argument("--out", metavar="DIR", help="copy the summary there")
    running.add_argument("--hold", action="store_true", help="keep the sandbox alive afterwards")
    add_user(running)


def add_user(parser: argparse.ArgumentParser) -> None:
    """The option with which root chooses the workload's user."""
    parser.add_argument(
        "--user", metavar="U", help="as root: run the workload as this user (NAME, UID, UID:GID)"
    )


def _add_secret(commands: _Commands) -> None:
    parser = commands.add_parser("secret", help="keep credentials for profiles", allow_abbrev=False)
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    setting = actions.add_parser("set", help="read a value from standard input", allow_abbrev=False)
    setting.add_argument("name", metavar="NAME")
    setting.add_argument("--key", default="value", help="one of several values of a secret (default: value)")
    actions.add_parser("list", help="names and keys, never values", allow_abbrev=False)
    removing = actions.add_parser("rm", help="forget a secret, or one key of it", allow_abbrev=False)
    removing.add_argument("name", metavar="NAME")
    removing.add_argument("--key", default=None)
