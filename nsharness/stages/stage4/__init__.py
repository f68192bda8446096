"""Stage 4: an agent in a sandbox reads a wiki that wants a token, and never holds the token.

``profile.toml``           what the agent may do and reach, and where the proxy puts the token
``skills/wiki-summary/``   the procedure that the agent follows; change a step and it does something else
``flow``                   the turn itself, with its checkpoint

``PROFILE`` is ``profile.toml`` as a ``Profile``, loaded when it is first used.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from nsharness.policy.profile import Profile

    PROFILE: Profile

FOLDER: Final = Path(__file__).resolve().parent
"""Where ``profile.toml`` is; its ``skill_source`` is relative to it."""


def load() -> Profile:
    """The stage's profile, from the file that comes with the package."""
    from nsharness.policy.load import load_profile

    return load_profile(FOLDER / "profile.toml")


def __getattr__(name: str) -> object:
    """Load ``PROFILE`` on first use (PEP 562)."""
    if name != "PROFILE":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return load()
