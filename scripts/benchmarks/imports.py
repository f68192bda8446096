"""What each program of ours imports before it can do anything, by ``python -X importtime``."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from measure import Contender, Table, compare

TITLE = "Imports (the sum of `-X importtime`)"
_TIME = re.compile(r"import time:\s+(\d+) \|")
_PROXY = "nsharness_proxy.__main__"
_SERVING = f"{_PROXY}, uvloop, nsharness_proxy.engine, nsharness_proxy.loader"
_PROGRAMS = {
    "the interpreter": "",
    "nsharness exec": "nsharness.cli.command, nsharness.cli.execute, nsharness.policy.plain",
    "nsharness exec, with a profile": "nsharness.cli.command, nsharness.cli.execute, nsharness.policy.load",
    "zygote": "nsharness.sandbox.zygote",
    "proxy, until it has certificates": _PROXY,
    "proxy, until it serves": _SERVING,
    "proxy, with mitmproxy": f"{_SERVING}, nsharness_proxy.mitm",
}


def _imported(modules: str) -> Contender:
    program = f"import {modules}" if modules else ""
    argv = [sys.executable, "-I", "-X", "importtime", "-c", program]

    def run() -> float:
        done = subprocess.run(argv, capture_output=True, text=True, check=True, cwd="/")
        return sum(map(int, _TIME.findall(done.stderr))) / 1e6

    return run


def tables(_: Path, rounds: int) -> Iterator[Table]:
    """Each in an interpreter of its own, with its bytecode at hand."""
    contenders = {name: _imported(modules) for name, modules in _PROGRAMS.items()}
    yield compare(TITLE, contenders, max(3, rounds // 3))
