"""Feed one descriptor and empty others at the same time, with a limit and a deadline."""

from __future__ import annotations

import os
import selectors
import time
from collections.abc import Sequence

_CHUNK = 1 << 16
_PIPE_BYTES = 1 << 20  # A pipe holds at most this many (pipe-max-size in pipe(7)).


def pump(
    sink: int, data: bytes, sources: Sequence[int], ended: int, timeout: float, limit: int
) -> tuple[list[bytes], bool]:
    """Write ``data`` to ``sink`` and close it; read ``sources`` until ``ended`` reports end-of-file.

    Returns at most ``limit`` bytes of each source, and whether the end came within ``timeout`` seconds. A
    source that a background process keeps open is not waited for.
    """
    deadline = time.monotonic() + timeout
    kept = {source: bytearray() for source in sources}
    pending = memoryview(data)
    for descriptor in (sink, *sources):
        os.set_blocking(descriptor, False)
    with selectors.DefaultSelector() as selector:
        for source in (*sources, ended):
            selector.register(source, selectors.EVENT_READ)
        if pending:
            selector.register(sink, selectors.EVENT_WRITE)
        else:
            os.close(sink)
        try:
            while (left := deadline - time.monotonic()) > 0:
                ready = {key.fd for key, _ in selector.select(left)}
                if sink in ready:
                    pending = _write(sink, pending)
                    if not pending:
                        selector.unregister(sink)
                        os.close(sink)
                for source in ready & kept.keys():
                    if not _read(source, kept[source], limit):
                        selector.unregister(source)
                if ended in ready:
                    for source in sources:
                        _read(source, kept[source], limit)
                    return [bytes(kept[source]) for source in sources], True
            return [bytes(kept[source]) for source in sources], False
        finally:
            if pending:
                os.close(sink)


def _write(sink: int, pending: memoryview) -> memoryview:
    try:
        return pending[os.write(sink, pending[:_CHUNK]) :]
    except BlockingIOError:
        return pending
    except BrokenPipeError:
        return memoryview(b"")  # The program does not want the rest.


def _read(source: int, kept: bytearray, limit: int) -> bool:
    """Take what is there now, not what a fast writer adds meanwhile; False at end-of-file."""
    left = _PIPE_BYTES
    while left > 0:
        try:
            data = os.read(source, _CHUNK)
        except BlockingIOError:
            return True
        if not data:
            return False
        left -= len(data)
        kept += data[: max(0, limit - len(kept))]
    return True
