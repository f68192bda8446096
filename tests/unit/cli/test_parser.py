"""A command's parser is the same whether those of others are made or not."""

from __future__ import annotations

import argparse

import pytest

from nsharness.cli import main
from nsharness.cli.command import _COMMANDS
from nsharness.cli.parser import parser


def of(command: str, made: argparse.ArgumentParser) -> argparse.ArgumentParser:
    (commands,) = (each for each in made._actions if isinstance(each, argparse._SubParsersAction))
    found: argparse.ArgumentParser = commands.choices[command]
    return found


def shown(made: argparse.ArgumentParser) -> list[str]:
    return [repr(each) for each in made._actions if not isinstance(each, argparse._SubParsersAction)]


@pytest.mark.parametrize("command", sorted(_COMMANDS))
def test_alone_and_among_all_it_takes_the_same(command: str) -> None:
    alone, among = of(command, parser(command)), of(command, parser())
    assert alone.format_help() == among.format_help()
    assert alone._defaults == among._defaults
    assert shown(alone) == shown(among)


def test_an_unknown_command_is_told_all_that_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["exce", "--", "true"])
    told = capsys.readouterr().err
    assert all(repr(command) in told for command in _COMMANDS)


def test_help_has_all_commands(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    told = capsys.readouterr().out
    assert all(f"    {command} " in told for command in _COMMANDS)
