"""What is worked out for a text is remembered, for the few short ones that come again and again.

Clients choose the texts. Long ones are not kept, so that what they choose takes no memory to speak of.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, wraps
from typing import Final

LONGEST: Final = 128
"""Characters of a text that is remembered at most."""
MOST: Final = 1024
"""Texts that are remembered for one function; the one that was asked for least recently is forgotten."""


def remembered[T: (str, bytes), R](function: Callable[[T], R]) -> Callable[[T], R]:
    """Decorates a pure function of one text."""
    short = lru_cache(maxsize=MOST)(function)

    @wraps(function)
    def ask(text: T) -> R:
        return short(text) if len(text) <= LONGEST else function(text)

    return ask
