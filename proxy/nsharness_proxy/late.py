"""Imports while the process serves: none, but for the one that was announced.

What a process imports before it serves, it imports with the rights that it was started with, and before any
workload runs. What comes later could be out of reach (the user that it has become may not enter the
interpreter's folders), and could have been put there by a workload meanwhile. So the folders that modules
come from are held open from the start, which is as good as being allowed to enter them, and nothing is taken
from a file that was changed since: the kernel writes down the moment of each change (``st_ctime`` in
inode(7)), and nobody but root can make it write another.
"""

from __future__ import annotations

import importlib
import importlib.machinery
import os
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from nsharness_proxy.report import Report

_SLACK_NS: Final = 20_000_000
"""The clock that the kernel takes for files is as coarse as its ticks."""


class Imports:
    """The first finder that is asked (``sys.meta_path``). Until ``close`` it finds nothing, and leaves
    everything to the others; from then on it refuses everything, except to ``load``."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._closed_at = 0
        self._folders: list[tuple[str, int]] = []
        self._loading: int | None = None

    def close(self) -> None:
        """Keep the folders that modules come from, and let nothing further in."""
        for path in dict.fromkeys(sys.path):
            try:
                descriptor = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            except OSError:
                continue
            self._folders.append((path.rstrip("/") + "/", descriptor))
        # The longest first: one may lie in another.
        self._folders.sort(key=lambda folder: -len(folder[0]))
        self._closed_at = time.time_ns() - _SLACK_NS
        sys.meta_path.insert(0, self)

    def load(self, name: str) -> ModuleType:
        """Import a module, with all that it imports. ``ImportError`` or ``OSError`` if one of its files is
        not as it was."""
        self._loading = threading.get_ident()
        try:
            return importlib.import_module(name)
        finally:
            self._loading = None

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """What is to be loaded, from the folders that are held open."""
        if self._loading != threading.get_ident():
            self._report.log("error", f"a late import of {fullname} was refused")
            raise ImportError(f"{fullname} was not imported before privileges were given up", name=fullname)
        if fullname in sys.builtin_module_names or importlib.machinery.FrozenImporter.find_spec(fullname):
            return None
        closed_at = self._closed_at

        class Source(importlib.machinery.SourceFileLoader):
            def get_data(self, path: str) -> bytes:
                return _unchanged(path, closed_at)

            def set_data(self, path: str, data: Any, *, _mode: int = 0o666) -> None:
                """Nothing is written."""

        class Extension(importlib.machinery.ExtensionFileLoader):
            def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
                _check(Path(self.path).stat(), closed_at)
                made = super().create_module(spec)
                _check(Path(self.path).stat(), closed_at)
                return made

        portions: list[str] = []
        for folder in sys.path if path is None else path:
            finder = importlib.machinery.FileFinder(
                self._held_open(folder),
                (Extension, importlib.machinery.EXTENSION_SUFFIXES),
                (Source, importlib.machinery.SOURCE_SUFFIXES),
            )
            spec = finder.find_spec(fullname)
            if spec is not None and spec.loader is not None:
                return spec
            portions += (spec and spec.submodule_search_locations) or []
        if not portions:
            raise ImportError(f"{fullname} is not there", name=fullname)
        # A package without a file of its own.
        shared = importlib.machinery.ModuleSpec(fullname, None, is_package=True)
        shared.submodule_search_locations = portions
        return shared

    def _held_open(self, folder: str) -> str:
        """The same folder by a path that can be entered."""
        for known, descriptor in self._folders:
            if f"{folder}/".startswith(known):
                return f"/proc/self/fd/{descriptor}/{folder[len(known) :]}".rstrip("/")
        return folder


def _unchanged(path: str, since: int) -> bytes:
    """The content of a file that was not changed since a moment. ``OSError`` if it was."""
    with Path(path).open("rb") as file:
        content = file.read()
        # After reading: whoever changes it later changes nothing here.
        _check(os.fstat(file.fileno()), since)
        return content


def _check(status: os.stat_result, since: int) -> None:
    if status.st_ctime_ns >= since:
        raise OSError("a module's file was changed after the start")
