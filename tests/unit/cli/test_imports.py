"""What a subcommand loads, counted in an interpreter of its own: starting is mostly importing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from nsharness.cli.parser import parser

_PROGRAM = """
import sys
from nsharness.cli import main
try:
    main(sys.argv[1:])
except SystemExit:
    pass
print(*sys.modules, file=sys.stderr)
"""
_HEAVY = {"pydantic", "asyncio", "pyroute2", "mitmproxy", "cryptography", "tomllib", "mcp"}
_SLOW = {"dataclasses", "inspect", "logging", "secrets", "importlib.metadata", "email"}
"""Each takes several milliseconds."""

# As far as they go where there is no run of that name, and nothing else either.
_LIGHT = (
    ["--version"],
    ["--help"],
    ["ps"],
    ["stop", "no-such-run"],
    ["gc"],
    ["reload", "no-such-run"],
    ["approve", "no-such-run"],
    ["enter", "no-such-run", "--", "true"],
    ["diff", "no-such-run"],
    ["apply", "no-such-run"],
    ["discard", "no-such-run"],
    ["secret", "list"],
    ["secret", "rm", "no-such-secret"],
    ["doctor"],
    ["doctor", "--apparmor-profile"],
    ["up", "--systemd"],
    ["down"],
)
# They read a profile, or make the schema of one.
_OTHERS = {
    "exec",
    "shell",
    "run",
    "mcp",
    "learn",
    "plan",
    "why",
    "check",
    "schema",
    "trust",
    "presets",
    "init",
}
_MOST = 200
"""Modules; the standard library's part of argparse and what comes with it is 80 of them."""


@pytest.mark.parametrize("words", _LIGHT, ids=" ".join)
def test_a_command_that_reads_no_profile_loads_little(words: list[str], tmp_path: Path) -> None:
    names = ("HOME", "XDG_STATE_HOME", "XDG_DATA_HOME", "XDG_RUNTIME_DIR")
    env = {"PATH": os.environ["PATH"], **{name: str(tmp_path / name) for name in names}}
    argv = [sys.executable, "-I", "-c", _PROGRAM, *words]
    done = subprocess.run(argv, capture_output=True, text=True, env=env, cwd=tmp_path, timeout=60)
    assert done.returncode == 0, done.stderr
    loaded = done.stderr.splitlines()[-1].split()
    assert {name.partition(".")[0] for name in loaded} & _HEAVY == set()
    assert len(loaded) <= _MOST


@pytest.mark.parametrize(
    ("module", "most"),
    # What is loaded while somebody waits for a sandbox: by the command line, and by the zygote meanwhile.
    [("nsharness.cli.execute", 190), ("nsharness.sandbox.zygote", 120)],
)
def test_the_way_to_a_sandbox_is_short(module: str, most: int) -> None:
    code = f"import sys, {module}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, timeout=60)
    loaded = done.stdout.split()
    assert {name.partition(".")[0] for name in loaded} & (_HEAVY | _SLOW) == set()
    assert module in loaded
    assert len(loaded) <= most


def test_every_command_is_one_or_the_other() -> None:
    (commands,) = (each for each in parser()._actions if hasattr(each, "choices") and each.dest == "command")
    light = {words[0] for words in _LIGHT if not words[0].startswith("-")}
    assert set(commands.choices or ()) == light | _OTHERS
    assert not light & _OTHERS
