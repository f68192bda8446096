"""Whose the files are that we run from."""

from __future__ import annotations

import os


def bytecode_would_be_foreign() -> bool:
    """Whether we are root and run somebody else's installation: bytecode that we wrote there could not be
    removed again by its owner."""
    if os.geteuid() != 0:
        return False
    # Not by pathlib, which would have to be imported: this is in the way of every command.
    return any(os.stat(path).st_uid != 0 for path in (__file__, os.__file__))  # noqa: PTH116
