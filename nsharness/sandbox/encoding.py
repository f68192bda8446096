"""The process that encodes, with pyroute2, what the kernel is asked for gateways; it ends right after.

It has as much to import as the zygote itself, so it is started first: this module needs next to nothing.
"""

from __future__ import annotations

import os
from functools import cache


@cache
def encoder() -> tuple[int, int]:
    """Start it, if it has not been started: its pid, and the pipe on which it says them as JSON."""
    read, write = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        try:
            # The socket on which the supervisor waits for the zygote's end is not ours to keep open.
            os.closerange(3, write)
            os.closerange(write + 1, os.sysconf("SC_OPEN_MAX"))
            _encode(write)
        finally:
            os._exit(0)
    os.close(write)
    return pid, read


def _encode(pipe: int) -> None:
    import json

    from nsharness.sandbox import rtnetlink

    with os.fdopen(pipe, "wb") as stream:
        stream.write(json.dumps(rtnetlink.datagrams()).encode())
