"""What importing the policy costs: the proxy and the command line pay it at every start."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("pydantic", "mitmproxy", "publicsuffix2", "pyroute2", "prctl", "http.client")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "loads"),
    [
        ("nsharness.policy.decide", ()),
        ("nsharness.policy.authority", ()),
        ("nsharness.policy.proof", ()),
        ("nsharness.policy.headers", ()),
        ("nsharness.policy.route", ()),
        ("nsharness.policy.limits", ()),
        ("nsharness.policy.explain", ()),
        ("nsharness.policy.names", ()),
        ("nsharness.policy.checks", ()),
        ("nsharness.policy.suffixes", ()),
        ("nsharness.policy.schema", ()),
        ("nsharness.credentials.build", ()),
        ("nsharness.credentials.map", ()),
        ("nsharness.credentials.store", ()),
        ("nsharness.policy.profile", ("pydantic",)),
        ("nsharness.policy.load", ("pydantic",)),
    ],
)
def test_a_module_loads_nothing_heavy_that_it_does_not_need(module: str, loads: tuple[str, ...]) -> None:
    code = f"import sys, {module}; print(*sorted(set({HEAVY!r}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    assert tuple(done.stdout.split()) == loads
