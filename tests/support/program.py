"""The command line as a person starts it: a process of its own with directories of its own."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from tests.support.processes import alive, descendants
from tests.support.waiting import eventually

_LONG = 60.0


class Program:
    """Runs ``nsharness`` with private state and data directories below ``folder``."""

    def __init__(self, folder: Path, environment: Mapping[str, str] | None = None) -> None:
        self.state = folder / "state"
        self.data = folder / "data"
        self.environment = {
            "PATH": os.environ["PATH"],
            "HOME": os.environ.get("HOME", "/nonexistent"),
            "XDG_STATE_HOME": str(self.state),
            "XDG_DATA_HOME": str(self.data),
            **(environment or {}),
        }

    def argv(self, arguments: Sequence[str]) -> list[str]:
        return [sys.executable, "-I", "-m", "nsharness.cli", *arguments]

    def __call__(
        self, *arguments: str, stdin: str = "", env: Mapping[str, str] | None = None, cwd: Path | str = "/"
    ) -> subprocess.CompletedProcess[str]:
        """Run to the end."""
        return subprocess.run(
            self.argv(arguments),
            input=stdin,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_LONG,
            env={**self.environment, **(env or {})},
            cwd=cwd,
        )

    def start(self, *arguments: str) -> Running:
        """Start and go on."""
        return Running(self.argv(arguments), self.environment)

    def supervisors(self) -> list[int]:
        """The pids of those of all live runs."""
        return [int(path.read_text()) for path in self.state.glob("nsharness/runs/*/live")]

    def secret(self, name: str, key: str) -> bytes:
        """The value that the demo made for itself."""
        from nsharness.credentials.store import SecretStore

        store = SecretStore.default(Path("/nonexistent"), self.environment)
        return store.get(name, key).reveal().encode()


@contextlib.contextmanager
def background(folder: Path, *arguments: str) -> Iterator[dict[str, str]]:
    """A background supervisor below ``folder``, whose path is to be short; what to add to the environment of
    command lines that are to find it. All of it is gone afterwards."""
    runtime = folder / "rt"
    runtime.mkdir(mode=0o700)
    environment = {"XDG_RUNTIME_DIR": str(runtime)}
    program = Program(folder, environment)
    with program.start("up", "--foreground", *arguments) as running:
        eventually((runtime / "nsharness" / "supervisor").exists)
        yield environment
        ours = descendants(running.process.pid)
        running.process.send_signal(signal.SIGTERM)
        assert running.wait() == 0, running.lines
        eventually(lambda: not any(alive(pid) for pid in ours), what="a spare goes on")


class Running:
    """A started program: its lines as they come."""

    def __init__(self, argv: Sequence[str], environment: Mapping[str, str]) -> None:
        self.process = subprocess.Popen(
            argv,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd="/",
            start_new_session=True,
        )
        self.lines: list[str] = []
        self._changed = threading.Condition()
        self._ended = False
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._changed:
                self.lines.append(line.rstrip("\n"))
                self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def expect(self, pattern: str, timeout: float = _LONG) -> re.Match[str]:
        """The first line that matches, waiting for it; AssertionError with what came instead."""
        compiled = re.compile(pattern)

        def found() -> re.Match[str] | None:
            return next((match for line in self.lines if (match := compiled.search(line))), None)

        with self._changed:
            self._changed.wait_for(lambda: found() is not None or self._ended, timeout)
            match = found()
        assert match is not None, "\n".join(["never came: " + pattern, *self.lines])
        return match

    def wait(self, timeout: float = _LONG) -> int:
        """Its exit code."""
        code = self.process.wait(timeout)
        self._reader.join(timeout)
        return code

    def __enter__(self) -> Running:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(_LONG)
        self._reader.join(_LONG)
        if self.process.stdout is not None:
            self.process.stdout.close()
