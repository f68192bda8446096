"""Which cases of a test every run tries, and which only ``scripts/test --all`` does."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import pytest


def others_slow(cases: Iterable[Any], keep: int | Collection[Any] = 1) -> list[Any]:
    """The cases as ``parametrize`` takes them; all but the first ``keep``, or those named, are slow."""
    found = list(cases)
    kept = found[:keep] if isinstance(keep, int) else [case for case in found if case in keep]
    return [case if case in kept else _slow(case) for case in found]


def _slow(case: Any) -> Any:
    if hasattr(case, "marks"):
        return pytest.param(*case.values, id=case.id, marks=[*case.marks, pytest.mark.slow])
    return pytest.param(*(case if isinstance(case, tuple) else (case,)), marks=pytest.mark.slow)
