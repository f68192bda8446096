"""``nsharness run``: what is checked before anything starts."""

from __future__ import annotations

import shutil

import pytest

from nsharness.cli.run import _require_programs
from nsharness.errors import NsharnessError


@pytest.mark.parametrize("missing", ["bash", "curl"])
def test_a_program_that_the_demo_needs_is_missed_before_it_begins(
    missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name, path: None if name == missing else f"/usr/bin/{name}")
    with pytest.raises(NsharnessError, match=rf"^no {missing}: .*apt-get install {missing}\)$"):
        _require_programs()
