"""SIGHUP to a held run: reload, unless it says that the terminal has gone."""

from __future__ import annotations

import io
import signal
import threading
from collections.abc import Callable, Iterator

import pytest

from nsharness.cli import hold
from nsharness.cli.command import Interrupted
from nsharness.errors import NsharnessError
from nsharness.supervisor.console import Console


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    kept = {number: signal.getsignal(number) for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in kept.items():
        signal.signal(number, handler)


class Sandbox:
    """One that lives on, unless it is told that it has ended."""

    def __init__(self, ended: bool = False) -> None:
        self.id = "run"
        self.ended_by = NsharnessError("its time is over", exit_code=124) if ended else None

    def wait(self) -> object:
        return self.ended_by or threading.Event().wait()


def test_it_ends_with_its_sandbox_and_says_why() -> None:
    with pytest.raises(NsharnessError, match="its time is over"):
        hold.hold(Console(io.StringIO()), Sandbox(ended=True), lambda: "")


def held(monkeypatch: pytest.MonkeyPatch, terminal: list[bool], reload: Callable[[], str]) -> None:
    """Hold with a terminal that is there, or not, each time it is looked for; one SIGHUP has come already."""
    monkeypatch.setattr(hold, "_has_terminal", lambda: terminal.pop(0))

    class Ready(Console):
        def plain(self, text: str) -> None:
            pass

    install = signal.signal

    def installed(number: int, handler: object) -> object:
        done = install(number, handler)  # type: ignore[arg-type]
        if number == signal.SIGHUP and callable(handler):
            signal.raise_signal(signal.SIGHUP)
        return done

    monkeypatch.setattr(signal, "signal", installed)
    hold.hold(Ready(), Sandbox(), reload)


@pytest.mark.parametrize("terminal", [[False], [True, True]], ids=["never had one", "still has it"])
def test_it_reloads_and_goes_on_after_a_refusal(
    monkeypatch: pytest.MonkeyPatch, terminal: list[bool]
) -> None:
    calls: list[int] = []
    terminal = terminal + terminal[-1:] * 2

    def reload() -> str:
        calls.append(1)
        if len(calls) == 2:
            raise Interrupted(signal.SIGTERM)
        signal.raise_signal(signal.SIGHUP)
        raise NsharnessError("refused")

    with pytest.raises(Interrupted) as caught:
        held(monkeypatch, terminal, reload)
    assert caught.value.number == signal.SIGTERM
    assert len(calls) == 2


def test_it_ends_with_its_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    def reload() -> str:
        raise AssertionError("nobody is there to have asked for it")

    with pytest.raises(Interrupted) as caught:
        held(monkeypatch, [True, False], reload)
    assert caught.value.number == signal.SIGHUP
