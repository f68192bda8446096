"""mitmproxy, loaded when the first connection needs it: it takes as much memory and time as all the rest."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from nsharness_proxy.late import Imports
from nsharness_proxy.report import Report

if TYPE_CHECKING:
    from nsharness_proxy.mitm import Mitm


class Loader:
    """To be called, and awaited, for mitmproxy."""

    def __init__(self, imports: Imports, report: Report) -> None:
        self._imports = imports
        self._report = report
        self._lock = asyncio.Lock()
        self._loaded: Mitm | None = None

    def now(self) -> None:
        """Load it before anything is served."""
        from nsharness_proxy.mitm import Mitm

        self._loaded = Mitm(self._report)

    async def __call__(self) -> Mitm:
        """``ImportError`` or ``OSError`` if it cannot be loaded any more."""
        async with self._lock:
            if self._loaded is None:
                # In a thread of its own: whoever is served meanwhile does not wait.
                loop = asyncio.get_running_loop()
                module = await loop.run_in_executor(None, self._imports.load, "nsharness_proxy.mitm")
                self._loaded = module.Mitm(self._report)
            return self._loaded
