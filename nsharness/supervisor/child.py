"""Start one of our own programs as a helper process.

Isolated mode keeps environment variables, the user's site directory and the working directory out of its
import path: a hostile working directory must not provide the package that will hold the credentials.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from typing import Final

from nsharness.errors import NsharnessError
from nsharness.linux import fds
from nsharness.linux.installation import bytecode_would_be_foreign

_ENVIRONMENT: Final = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8"}
_STDERR_TAIL: Final = 2000
_FORKING: Final = threading.Lock()

RUN_OPTION: Final = "nsharness-run"
"""Option of the interpreter (``-X``) by which a helper process names its run, or the random end of its id."""


@contextlib.contextmanager
def _without_vfork() -> Iterator[None]:
    """Within the block ``subprocess`` forks. With vfork(2) we would wait for the child until it has executed
    its program, whatever happens: and a Ctrl-Z that stops it before it is in a session of its own would
    leave us unable to stop as well, or to do anything else."""
    settings = vars(subprocess)  # The manual of subprocess names this one, the types of its module do not.
    with _FORKING:
        usual = settings["_USE_VFORK"]
        settings["_USE_VFORK"] = False
        try:
            yield
        finally:
            settings["_USE_VFORK"] = usual


class Child:
    """A running helper. Its standard error is kept in memory for the case that it dies unexpectedly."""

    def __init__(
        self, module: str, arguments: Sequence[str], descriptors: Sequence[int], *, run: str = ""
    ) -> None:
        self.module = module
        self._stderr = os.memfd_create(f"{module}-stderr", os.MFD_CLOEXEC)
        # Under sudo no root-owned bytecode may appear in a user's checkout. In root's own it has to: the
        # proxy's would be compiled at every start.
        flags = ["-I", "-B"] if bytecode_would_be_foreign() else ["-I"]
        # By this it is found when it is left behind; an option of the interpreter, so that no program has to
        # know of it.
        flags += ["-X", f"{RUN_OPTION}={run}"] if run else []
        try:
            with _without_vfork():
                self._process = subprocess.Popen(
                    [sys.executable, *flags, "-m", module, *arguments],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=self._stderr,
                    env=_ENVIRONMENT,
                    cwd="/",
                    pass_fds=tuple(descriptors),
                    start_new_session=True,
                )
        except OSError as error:
            os.close(self._stderr)
            raise NsharnessError(f"cannot start {module}", why=error.strerror or str(error)) from error
        self._last_words = ""
        self.pid = self._process.pid
        self.pidfd = os.pidfd_open(self.pid)

    def poll(self) -> int | None:
        """Its exit status once it has ended, as ``subprocess`` gives it."""
        return self._process.poll()

    def wait(self, timeout: float) -> int:
        """Wait for its end; ``subprocess.TimeoutExpired`` after ``timeout`` seconds."""
        return self._process.wait(timeout)

    def complaint(self) -> str:
        """The last line it wrote to standard error: the cause, when it ended by a bug."""
        if self._stderr < 0:
            return self._last_words
        size = os.fstat(self._stderr).st_size
        tail = os.pread(self._stderr, _STDERR_TAIL, max(0, size - _STDERR_TAIL))
        lines = tail.decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else ""

    def kill(self) -> None:
        """End it at once (SIGKILL), which is not waited for."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)

    def end(self, grace: float = 2.0) -> None:
        """Wait up to ``grace`` seconds for it to end by itself, then kill it. Idempotent."""
        if self._stderr < 0:
            return
        # Not by subprocess, which looks at times that grow.
        if self._process.poll() is None and not fds.await_readable(self.pidfd, grace):
            self.kill()
        self._process.wait()
        self._last_words = self.complaint()
        os.close(self.pidfd)
        os.close(self._stderr)
        self._stderr = -1
