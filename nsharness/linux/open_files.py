"""How many descriptors a process may have open (RLIMIT_NOFILE in getrlimit(2)).

Whoever keeps hundreds of sandboxes needs a dozen for each, and the customary soft limit is 1024. It is that
low for programs that use select(2), so workloads get what was there before.
"""

from __future__ import annotations

import resource
from typing import Final

INHERITED: Final = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
"""The soft limit that this process came with."""


def raise_limit() -> None:
    """As many as the hard limit allows, from now on."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def set_limit(soft: int) -> None:
    """Back to a soft limit, where the hard one still allows it; programs may raise it again themselves."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if hard != resource.RLIM_INFINITY and not 0 <= soft <= hard:  # Infinity is negative.
        soft = hard
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
