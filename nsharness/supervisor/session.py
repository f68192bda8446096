"""One run: whose it is, where its records are, and the processes that everything else stands on."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import ExitStack
from types import TracebackType

from nsharness.errors import NsharnessError
from nsharness.linux import open_files
from nsharness.linux.identity import Identity, current
from nsharness.supervisor.claim import claimed
from nsharness.supervisor.console import Reporter, Silent
from nsharness.supervisor.early import Early, Started
from nsharness.supervisor.hub import Hub
from nsharness.supervisor.orphans import collect
from nsharness.supervisor.state import RunDirectory, create_run
from nsharness.supervisor.zygote import Zygote


class Session:
    """A context manager. Leaving it ends every process of the run, whatever happened inside.

    ``name`` is the beginning of the run's id. Everything is reported to ``reporter``, by default to nobody.
    """

    def __init__(
        self,
        name: str,
        *,
        reporter: Reporter | None = None,
        identity: Identity | None = None,
        early: Early | None = None,
        pool: int = 0,
    ) -> None:
        """``early`` has helpers that were started for this session; ``pool`` is how many sandboxes are to be
        kept half ready, for a session with many."""
        self._name = name
        self.reporter: Reporter = reporter or Silent()
        self.identity = identity or current()
        self.early = early or Early()
        self._pool = pool
        self._stack = ExitStack()
        self._zygote: Zygote | None = None

    def __enter__(self) -> Session:
        # A dozen for each sandbox that lives, and a library's user may have hundreds.
        open_files.raise_limit()
        self.run: RunDirectory = create_run(self.identity, self._name, token=self.early.token)
        try:
            self._stack.enter_context(claimed(self.run))
            self.hub: Hub = self._stack.enter_context(Hub(self._on_error))
            # Its imports take longer than everything else before the sandbox starts: begin with it.
            started = self.early.take("zygote") or self.start("nsharness.sandbox.zygote")
            self._zygote = Zygote(self.hub, started, pool=self._pool)
            self._stack.callback(self._zygote.close)
            self._collect()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    @property
    def zygote(self) -> Zygote:
        """The run's zygote."""
        if self._zygote is None:
            raise RuntimeError("the session is not open")
        return self._zygote

    @contextlib.contextmanager
    def last_sandbox(self) -> Iterator[None]:
        """Nothing is asked of the zygote after the block: it ends while others do."""
        try:
            yield
        finally:
            self.zygote.dismiss()

    def start(self, module: str, credentials: int | None = None) -> Started:
        """Start a helper process of this run."""
        return Started(module, self.run.id, credentials)

    @property
    def drop_arguments(self) -> list[str]:
        """What tells a helper program, as arguments, which user to become."""
        drop = self.identity.drop_to
        return [] if drop is None else ["--uid", str(drop[0]), "--gid", str(drop[1])]

    def _collect(self) -> None:
        """Clear away what killed runs have left. That it cannot be done keeps no run from starting."""
        with contextlib.suppress(OSError, NsharnessError):
            for run in {orphan.run for orphan in collect(self.identity, everything=False) if orphan.gone}:
                self.reporter.line("nsharness", f"removed what run {run} had left behind")

    def _on_error(self, error: BaseException) -> None:
        self.reporter.line("nsharness", f"internal error: {type(error).__name__}: {error}")
