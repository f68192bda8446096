"""The command line's frame: usage, exit codes, one line for one failure."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from nsharness.cli import command as cli
from nsharness.cli.parser import parser
from nsharness.errors import NsharnessError

REAL_SIGNAL = signal.signal
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@pytest.fixture(autouse=True)
def signals_restored(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Here signals are the subject: taken for real, and given back."""
    monkeypatch.setattr(signal, "signal", REAL_SIGNAL)
    before = {number: signal.getsignal(number) for number in SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def dispatch(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], int]], None]:
    """Do this instead of what the subcommand would do."""

    def replace(action: Callable[[], int]) -> None:
        monkeypatch.setattr(cli, "_dispatch", lambda *_: action())

    return replace


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["nonsense"],
        ["run"],
        ["run", "stage9"],
        ["stop"],
        ["enter", "x"],
        ["secret"],
        ["secret", "set"],
        ["ps", "-x"],
    ],
)
def test_wrong_usage_is_one_line_and_125(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        cli.main(arguments)
    assert raised.value.code == 125
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 1
    assert err.startswith("nsharness")
    assert "--help" in err


@pytest.mark.parametrize(
    "arguments", [["run", "stage4", "--ho"], ["ps", "--js"], ["run", "stage4", "--mod", "x"]]
)
def test_abbreviated_options_are_refused(arguments: list[str]) -> None:
    """A later option must not change what a script's abbreviation means."""
    with pytest.raises(SystemExit):
        cli.main(arguments)


def test_a_value_is_no_argument_of_secret_set(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        cli.main(["secret", "set", "wiki", "wiki_0123456789"])
    assert raised.value.code == 125


def test_a_command_for_enter_keeps_its_own_options() -> None:
    options = parser().parse_args(["enter", "run-1", "--", "ls", "-l", "--all"])
    assert (options.run, options.argv) == ("run-1", ["ls", "-l", "--all"])


def test_the_exit_code_is_what_the_subcommand_says(dispatch: Callable[[Callable[[], int]], None]) -> None:
    dispatch(lambda: 7)
    assert cli.main(["ps"]) == 7


def test_a_failure_is_one_line_with_its_exit_code(
    dispatch: Callable[[Callable[[], int]], None], capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> int:
        raise NsharnessError("cannot\nrun", why="no", hint="do", exit_code=126)

    dispatch(fail)
    assert cli.main(["ps"]) == 126
    assert capsys.readouterr().err == "nsharness: cannot\\nrun: no (do)\n"


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_unwinds_and_is_told_by_the_exit_code(
    dispatch: Callable[[Callable[[], int]], None], number: signal.Signals
) -> None:
    unwound: list[bool] = []

    def interrupted() -> int:
        try:
            signal.raise_signal(number)
        finally:
            # Cleaning up must not be interrupted by an impatient second one.
            for other in SIGNALS:
                signal.raise_signal(other)
            unwound.append(True)
        return 0

    dispatch(interrupted)
    assert cli.main(["ps"]) == 128 + number
    assert unwound == [True]


def test_an_interrupt_is_no_exception_that_handlers_of_errors_catch() -> None:
    assert not issubclass(cli.Interrupted, Exception)


def _print(text: str) -> int:
    print(text)
    return 0


def test_a_reader_that_has_gone_away_ends_it_quietly(
    dispatch: Callable[[Callable[[], int]], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    stream = os.fdopen(writing, "w")
    monkeypatch.setattr("sys.stdout", stream)
    dispatch(lambda: _print("x"))
    assert cli.main(["ps"]) == 128 + signal.SIGPIPE
    stream.close()


def test_a_subcommand_runs_in_an_undumpable_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    order: list[str] = []
    monkeypatch.setattr("nsharness.linux.process.make_undumpable", lambda: order.append("undumpable"))
    monkeypatch.setattr("nsharness.cli.runs.ps", lambda _: order.append("ps"))
    cli._dispatch(argparse.Namespace(command="ps"))
    assert order == ["undumpable", "ps"]


def test_a_library_that_does_not_load_is_one_line(
    dispatch: Callable[[Callable[[], int]], None], capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> int:
        raise ImportError("libcap.so.2: cannot open shared object file")

    dispatch(fail)
    assert cli.main(["ps"]) == 125
    err = capsys.readouterr().err
    assert err.startswith(
        "nsharness: cannot load a library: libcap.so.2: cannot open shared object file (nsharness doctor"
    )
    assert err.count("\n") == 1


def test_doctor_runs_before_anything_that_may_not_load(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nsharness.linux.process.make_undumpable", lambda: pytest.fail("needs python-prctl"))
    monkeypatch.setattr("nsharness.cli.doctor.doctor", lambda _: 2)
    assert cli._dispatch(argparse.Namespace(command="doctor")) == 2


def test_a_disk_that_is_full_is_one_line_and_no_traceback() -> None:
    program = (
        "from nsharness.cli import command as cli\n"
        "cli._dispatch = lambda *_: print('x' * 100_000) or 0\n"
        "raise SystemExit(cli.main(['ps']))\n"
    )
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-I", "-c", program], stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert (done.returncode, done.stderr) == (125, "nsharness: cannot go on: No space left on device\n")
