"""Where a person's secrets are."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path


def secrets_folder(home: Path, environ: Mapping[str, str]) -> Path:
    """The store in the user's data folder (XDG Base Directory Specification; a relative ``XDG_DATA_HOME``
    is ignored, as it says)."""
    data = Path(environ.get("XDG_DATA_HOME", ""))
    if not data.is_absolute():
        data = home / ".local" / "share"
    return data / "nsharness" / "secrets"
