"""Programs that tests need and that are not part of Python."""

from __future__ import annotations

import os
import shutil

import pytest

IN_CI = frozenset({"curl", "git", "node", "openssl", "python3", "wget"})
"""What continuous integration installs: there one of these that is missing is a mistake."""


def need(program: str) -> str:
    """Where a program of the system is. Without it the test is skipped, or fails in CI if it is ``IN_CI``."""
    path = shutil.which(program, path="/usr/local/bin:/usr/bin:/bin:/usr/lib/git-core")
    if path is not None:
        return path
    if program in IN_CI and os.environ.get("CI", "").lower() in ("1", "true"):
        pytest.fail(f"{program} is not installed", pytrace=False)
    pytest.skip(f"{program} is not installed")
