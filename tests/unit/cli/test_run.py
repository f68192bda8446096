"""What ``nsharness run`` leaves in result.json when something went wrong."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from nsharness.cli.run import _ended_by_limit
from nsharness.errors import NsharnessError
from nsharness.linux.identity import current
from nsharness.supervisor.limits import Hit
from nsharness.supervisor.sandbox import NamespaceSandbox
from nsharness.supervisor.session import Session
from nsharness.supervisor.state import RunDirectory


def outcome(folder: Path, *hits: Hit) -> tuple[NsharnessError, dict[str, Any]]:
    """The error that comes out, and the record, of a flow that failed in a sandbox with these hits."""
    run = RunDirectory("test-1", folder, current())
    fatal = next((hit for hit in hits if hit.ended), None)
    sandbox = SimpleNamespace(ended_by=fatal.error() if fatal else None, limits_hit=hits)
    with (
        pytest.raises(NsharnessError) as raised,
        _ended_by_limit(cast(Session, SimpleNamespace(run=run)), cast(NamespaceSandbox, sandbox)),
    ):
        raise NsharnessError("stage4 did not finish", exit_code=1)
    return raised.value, json.loads((folder / "result.json").read_text())


@pytest.mark.parametrize(("name", "code"), [("wall", 124), ("memory", 137)])
def test_a_limit_that_ended_the_sandbox_is_the_result(tmp_path: Path, name: str, code: int) -> None:
    error, record = outcome(tmp_path, Hit(name, "10 s", ended=True))
    assert error.exit_code == record["exit_code"] == code
    assert record["limits_hit"] == [{"limit": name, "value": "10 s", "ended": True, "count": 1}]
    assert f"limits.{name} = 10 s" in record["error"]


def test_a_limit_that_only_refused_something_is_named_beside_the_failure(tmp_path: Path) -> None:
    error, record = outcome(tmp_path, Hit("pids", "50", ended=False, count=3))
    assert (str(error), error.exit_code) == ("stage4 did not finish", 1)
    assert record["limits_hit"] == [{"limit": "pids", "value": "50", "ended": False, "count": 3}]


def test_any_other_failure_is_recorded_as_it_is(tmp_path: Path) -> None:
    _, record = outcome(tmp_path)
    assert record == {"exit_code": 1, "error": "stage4 did not finish", "limits_hit": []}
