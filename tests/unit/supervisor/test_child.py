"""Our own programs as helper processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from nsharness.errors import NsharnessError
from nsharness.supervisor.child import Child
from tests.support.descriptors import open_now
from tests.support.waiting import DEADLINE, eventually


def is_gone(pid: int) -> bool:
    return not Path(f"/proc/{pid}").exists()


def test_a_child_that_ended_badly_says_why_before_and_after_it_is_put_away() -> None:
    child = Child("nsharness.sandbox.zygote", [], [])
    assert child.wait(DEADLINE) == 2
    assert "--control-fd" in child.complaint()
    child.end()
    assert "--control-fd" in child.complaint()


def test_a_child_that_does_not_end_is_killed() -> None:
    child = Child("timeit", ["-n", "1", "import signal; signal.pause()"], [])
    child.end(grace=0.0)
    assert is_gone(child.pid)
    assert child.poll() == -signal.SIGKILL
    child.end()


def test_a_child_sees_neither_our_environment_nor_our_directory(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """K14, K20: a hostile working directory provides no module, a variable no path."""
    (tmp_path / "timeit.py").write_text("raise SystemExit('impostor')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("CANARY", "canary-value")
    statement = (
        "import os; assert (os.getcwd(), *sorted(set(os.environ) - {'LC_CTYPE'})) == ('/', 'LANG', 'PATH')"
    )
    child = Child("timeit", ["-n", "1", "-r", "1", statement], [])
    assert child.wait(DEADLINE) == 0, child.complaint()
    child.end()


def test_a_child_has_no_descriptor_but_those_that_are_named() -> None:
    kept, other = os.pipe()
    os.set_inheritable(other, True)
    # The listing itself has one more, the lowest that is free.
    statement = (
        f"import os; assert sorted(map(int, os.listdir('/proc/self/fd'))) == sorted([0, 1, 2, 3, {kept}])"
    )
    child = Child("timeit", ["-n", "1", "-r", "1", statement], [kept])
    assert child.wait(DEADLINE) == 0, child.complaint()
    child.end()
    os.close(kept)
    os.close(other)


def test_a_child_is_in_a_session_of_its_own() -> None:
    """K24: no terminal, and no Ctrl-C that was meant for the supervisor."""
    child = Child("timeit", ["-n", "1", "import signal; signal.pause()"], [])
    assert eventually(lambda: os.getsid(child.pid) == child.pid)
    child.end(grace=0.0)


def test_a_child_that_cannot_be_started_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nonexistent/python")
    before = open_now()
    with pytest.raises(NsharnessError, match="cannot start timeit: No such file"):
        Child("timeit", [], [])
    assert open_now() == before


def test_waiting_too_long_is_an_error() -> None:
    child = Child("timeit", ["-n", "1", "import signal; signal.pause()"], [])
    with pytest.raises(subprocess.TimeoutExpired):
        child.wait(0.01)
    child.end(grace=0.0)


def test_it_is_forked_so_that_nobody_has_to_wait_for_one_that_is_stopped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Ctrl-Z may stop it before it is in a session of its own: after vfork(2) we could not be stopped."""
    settings, started = vars(subprocess), subprocess.Popen
    found: list[bool] = []

    def start(*arguments: Any, **options: Any) -> Any:
        found.append(settings["_USE_VFORK"])
        return started(*arguments, **options)

    monkeypatch.setattr(subprocess, "Popen", start)
    before = settings["_USE_VFORK"]
    child = Child("nsharness.sandbox.zygote", [], [])
    child.end(0.0)
    assert found == [False]
    # For everybody else nothing has changed.
    assert settings["_USE_VFORK"] is before
