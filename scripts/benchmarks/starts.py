"""How long it takes until ``true`` has run and everything is gone again, beside peers that are installed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from measure import Contender, Table, compare
from workers import workers

from nsharness.linux.fds import close_all
from nsharness.supervisor.session import Session
from tests.support.sandboxes import opened_box, opened_session

PEERS_PYTHON = "NSHARNESS_BENCH_PYTHON"
"""Environment variable: a Python in which peers are installed."""

_HERE = Path(__file__).resolve().parent
_PROGRAM = str(Path(sys.executable).with_name("nsharness"))
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


_COMMANDS = {
    "srt true": ["srt", "true"],
    "codex sandbox -- true": ["codex", "sandbox", "--", "true"],
}
_LIBRARIES = {
    "sandlock (in-process)": "sandlock",
    "nono-py (in-process)": "nono",
    "nitrobox: true in a live sandbox": "nitrobox",
}


def _command(*argv: str, env: Mapping[str, str] | None = None) -> Contender:
    def run() -> None:
        subprocess.run(argv, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=env)

    return run


def _working(commands: Mapping[str, list[str]]) -> dict[str, Contender]:
    """Those that are installed and do what they are for; the others are named."""
    found = {}
    for name, argv in commands.items():
        if shutil.which(argv[0]) is None:
            print(f"starts: {name} is left out, {argv[0]} is not installed", file=sys.stderr)
        elif subprocess.run(argv, capture_output=True).returncode != 0:
            print(f"starts: {name} is left out, it does not work here", file=sys.stderr)
        else:
            found[name] = _command(*argv)
    return found


def _crun(folder: Path) -> dict[str, list[str]]:
    """A bundle whose file system is the machine's own, read-only."""
    bundle = folder / "bundle"
    bundle.mkdir()
    config = bundle / "config.json"
    rootless = [] if os.geteuid() == 0 else ["--rootless"]
    if shutil.which("crun") is not None:
        subprocess.run(["crun", "spec", *rootless], cwd=bundle, check=True, capture_output=True)
        made = json.loads(config.read_text())
        made["root"] = {"path": "/", "readonly": True}
        made["process"] |= {"terminal": False, "args": ["true"]}
        config.write_text(json.dumps(made))
    state = ["--root", str(folder / "crun")]
    return {"crun run": ["crun", *state, "--cgroup-manager=disabled", "run", "-b", str(bundle), "nsbench"]}


@contextmanager
def libraries() -> Iterator[dict[str, Contender]]:
    """Peers that are Python libraries, each in a process of the Python that has them (``--peers``)."""
    python = os.environ.get(PEERS_PYTHON, "")
    if not python:
        print(f"starts: {', '.join(_LIBRARIES)} are left out, see --peers", file=sys.stderr)
        yield {}
        return
    argv = {name: [python, str(_HERE / "peer.py"), word] for name, word in _LIBRARIES.items()}
    with workers(argv) as found:
        for name in argv.keys() - found.keys():
            print(f"starts: {name} is left out, it is not installed or does not work here", file=sys.stderr)
        yield found


@contextmanager
def background(folder: Path) -> Iterator[dict[str, str]]:
    """An environment in which commands find a background supervisor."""
    place = folder / "runtime"
    place.mkdir(mode=0o700)
    env = {**os.environ, "XDG_RUNTIME_DIR": str(place)}
    subprocess.run([_PROGRAM, "up"], check=True, env=env, stdout=subprocess.DEVNULL)
    try:
        yield env
    finally:
        subprocess.run([_PROGRAM, "down"], check=True, env=env, stdout=subprocess.DEVNULL)


@contextmanager
def ours(folder: Path) -> Iterator[tuple[Session, dict[str, Contender]]]:
    """A session that is there already, as for a library's user, and what it is asked for."""
    with (
        opened_session(folder) as session,
        opened_box(session) as kept,
        opened_session(folder) as pooled,
    ):
        kept.shell.run(":")
        pooled.zygote.pool(1)

        def whole(opened: Session) -> None:
            with opened_box(opened) as box:
                assert box.run(["true"]).exit_code == 0

        def gateway() -> None:
            made = session.zygote.gateway()
            close_all(made.listeners)
            session.zygote.release(made)

        yield (
            session,
            {
                "nsharness: sandbox, true, gone (in-process)": lambda: whole(session),
                "nsharness: the same from a pool": lambda: whole(pooled),
                "nsharness: true in a live sandbox": lambda: kept.run(["true"]) and None,
                "nsharness: true in the persistent shell": lambda: kept.shell.run("true") and None,
                "nsharness: a gateway": gateway,
            },
        )


def tables(folder: Path, rounds: int) -> Iterator[Table]:
    """What a library's user sees; command lines; and callers with more memory of their own."""
    contenders: dict[str, Contender] = {"fork and exec": _command("true")}
    contenders |= _working({**_PEERS, **_crun(folder)})
    with libraries() as others, ours(folder) as (_, inside):
        yield compare("Start and end of `true`", {**contenders, **others, **inside}, rounds)
    yield from _command_lines(folder, max(3, rounds // 4))
    callers = {}
    for name, megabytes in {"caller as it is": 0, "caller with 100 MB more": 100}.items():
        own = folder / f"caller-{megabytes}"
        own.mkdir(mode=0o711)
        callers[name] = [sys.executable, str(_HERE / "caller.py"), str(own), str(megabytes)]
    with workers(callers) as found:
        yield compare("Sandbox, true, gone, by the memory of who asks", found, rounds)


def _command_lines(folder: Path, rounds: int) -> Iterator[Table]:
    cold = {**os.environ, "NSHARNESS_BACKGROUND": "no"}
    words = [_PROGRAM, "exec", "--no-workspace", "--", "true"]
    with background(folder) as warm:

        def run_warm() -> float:
            # Somebody who types commands leaves a spare the time to get ready.
            time.sleep(1.0)
            begun = time.perf_counter()
            _command(*words, env=warm)()
            return time.perf_counter() - begun

        contenders = {
            **_working(_COMMANDS),
            "python -c pass": _command(sys.executable, "-I", "-c", "pass"),
            "nsharness --version": _command(_PROGRAM, "--version"),
            "nsharness ps": _command(_PROGRAM, "ps"),
            "nsharness exec -- true, cold": _command(*words, env=cold),
            "nsharness exec -- true, with nsharness up": run_warm,
        }
        yield compare("Command lines", contenders, rounds)
