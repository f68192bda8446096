"""How long it takes until ``true`` has run and everything is gone again."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from measure import Contender, Table, compare

from nsharness.linux.fds import close_all
from nsharness.supervisor.session import Session
from tests.support.sandboxes import opened_box, opened_session

_BWRAP = [
    "bwrap",
    "--unshare-all",
    "--die-with-parent",
    "--ro-bind",
    "/",
    "/",
    "--proc",
    "/proc",
    "--dev",
    "/dev",
    "true",
]
_PEERS = {
    "unshare, all namespaces": [
        "unshare",
        "--user",
        "--map-root-user",
        "--mount",
        "--net",
        "--pid",
        "--fork",
        "--ipc",
        "--uts",
        "true",
    ],
    "bwrap --unshare-all": _BWRAP,
    "firejail --net=none": ["firejail", "--quiet", "--noprofile", "--net=none", "true"],
}


def _command(*argv: str) -> Contender:
    def run() -> None:
        subprocess.run(argv, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    return run


def _works(argv: list[str]) -> bool:
    if shutil.which(argv[0]) is None:
        return False
    return subprocess.run(argv, capture_output=True).returncode == 0


@contextmanager
def ours(folder: Path) -> Iterator[tuple[Session, dict[str, Contender]]]:
    """A session that is there already, as for a library's user, and what it is asked for."""
    with opened_session(folder) as session, opened_box(session) as kept:
        kept.shell.run(":")

        def whole() -> None:
            with opened_box(session) as box:
                assert box.run(["true"]).exit_code == 0

        def gateway() -> None:
            made = session.zygote.gateway()
            close_all(made.listeners)
            session.zygote.release(made)

        yield (
            session,
            {
                "nsharness: sandbox, true, gone (in-process)": whole,
                "nsharness: true in a live sandbox": lambda: kept.run(["true"]) and None,
                "nsharness: true in the persistent shell": lambda: kept.shell.run("true") and None,
                "nsharness: a gateway": gateway,
            },
        )


def tables(folder: Path, rounds: int) -> Iterator[Table]:
    """Cold command lines, and what a library's user sees."""
    contenders: dict[str, Contender] = {"fork and exec": _command("true")}
    contenders |= {name: _command(*argv) for name, argv in _PEERS.items() if _works(argv)}
    with ours(folder) as (_, inside):
        yield compare("Start and end of `true`", {**contenders, **inside}, rounds)
    cold = [sys.executable, "-I", "-m", "nsharness.cli"]
    yield compare(
        "Command lines, cold",
        {
            "python -c pass": _command(sys.executable, "-I", "-c", "pass"),
            "nsharness --version": _command(*cold, "--version"),
            "nsharness ps": _command(*cold, "ps"),
            "nsharness exec --no-workspace -- true": _command(*cold, "exec", "--no-workspace", "--", "true"),
        },
        max(3, rounds // 4),
    )
