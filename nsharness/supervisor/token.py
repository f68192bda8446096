"""The random end of a run's id."""

from __future__ import annotations

import os


def new_token() -> str:
    """48 random bits in hex: nobody guesses the name of a live run."""
    return os.urandom(6).hex()
