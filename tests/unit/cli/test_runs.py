"""``nsharness ps`` and ``stop`` when there is no run, or none that answers."""

from __future__ import annotations

import argparse
import contextlib
import json
import socket
from pathlib import Path

import pytest

from nsharness.cli.enter import enter
from nsharness.cli.runs import ps, stop
from nsharness.errors import NsharnessError
from nsharness.linux.identity import current
from nsharness.supervisor.state import RunDirectory, create_run


@pytest.fixture(autouse=True)
def state(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    for name in ("SUDO_UID", "SUDO_GID"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def ended() -> RunDirectory:
    return create_run(current(), "run")


def show(**options: object) -> int:
    return ps(argparse.Namespace(**({"all": False, "json": False} | options)))


def test_without_runs_there_is_a_heading_alone(capsys: pytest.CaptureFixture[str]) -> None:
    assert show() == 0
    assert capsys.readouterr().out.split() == ["RUN", "STATE", "PID"]


def test_json_is_an_array_also_when_it_is_empty(capsys: pytest.CaptureFixture[str]) -> None:
    assert show(json=True) == 0
    assert json.loads(capsys.readouterr().out) == []


def test_a_run_that_has_ended_is_shown_on_request_only(capsys: pytest.CaptureFixture[str]) -> None:
    run = ended()
    show(json=True)
    show(json=True, all=True)
    plain, every = map(json.loads, capsys.readouterr().out.splitlines())
    assert plain == []
    assert every == [{"run": run.id, "state": "ended", "pid": None}]


def test_a_socket_without_a_listener_is_a_run_that_has_ended(capsys: pytest.CaptureFixture[str]) -> None:
    run = ended()
    with contextlib.chdir(run.path), socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as left:
        left.bind("control")
    show(json=True, all=True)
    assert json.loads(capsys.readouterr().out)[0]["state"] == "ended"


def test_what_has_ended_is_not_stopped_and_not_entered() -> None:
    run = ended()
    with pytest.raises(NsharnessError, match="has ended already"):
        stop(argparse.Namespace(run=run.id))
    with pytest.raises(NsharnessError, match="has ended") as raised:
        enter(argparse.Namespace(run=run.id, argv=["true"]))
    assert raised.value.exit_code == 125


@pytest.mark.parametrize("subcommand", [stop, enter])
def test_an_unknown_run_is_one_clear_error(subcommand: object) -> None:
    assert callable(subcommand)
    with pytest.raises(NsharnessError, match="no run 'absent'"):
        subcommand(argparse.Namespace(run="absent", argv=["true"]))
