"""Modules of a package without the package, for one that imports all it has as soon as it is touched."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType


@contextmanager
def behind(package: str) -> Iterator[None]:
    """Within the block modules of ``package`` are imported without running its ``__init__``; afterwards it is
    as if nobody had imported it yet. No difference where somebody has, or where it cannot be found."""
    spec = importlib.util.find_spec(package) if package not in sys.modules else None
    if spec is None or spec.submodule_search_locations is None:
        yield
        return
    stand_in = ModuleType(package)
    stand_in.__spec__ = spec
    stand_in.__path__ = list(spec.submodule_search_locations)
    sys.modules[package] = stand_in
    try:
        yield
    finally:
        if sys.modules.get(package) is stand_in:
            del sys.modules[package]
