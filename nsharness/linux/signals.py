"""Signal handlers that run at once, whatever the main thread waits for.

Python runs a handler in the main thread between two instructions. A signal that arrives after the last look
for one and before a blocking call begins (the kernel may also give it to another thread) interrupts nothing:
its handler runs when that call returns, which may be never. So a thread is told of each signal, and
interrupts the main thread until it has looked.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

_NUDGE: Final = signal.SIGURG  # Ignored by default: one that comes too late does no harm.
_PAUSE: Final = 0.02


@contextmanager
def prompt_handlers() -> Iterator[None]:
    """Within the block no signal with a handler waits for a call of the main thread, whose block it must be.

    Takes the wake-up descriptor (``signal.set_wakeup_fd``) and SIGURG.
    """
    reading, writing = os.pipe2(os.O_CLOEXEC)
    os.set_blocking(writing, False)
    looked = threading.Event()
    main = threading.get_ident()

    def nudge() -> None:
        while numbers := os.read(reading, 256):
            if set(numbers) - {_NUDGE}:
                looked.clear()
                while not looked.wait(_PAUSE) and not ended.is_set():
                    signal.pthread_kill(main, _NUDGE)

    ended = threading.Event()
    # All handlers whose signals have come are run together: when this one is, so are the others.
    before = signal.signal(_NUDGE, lambda *_: looked.set())
    thread = threading.Thread(target=nudge, name="nsharness-signals", daemon=True)
    thread.start()
    earlier = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    try:
        yield
    finally:
        signal.set_wakeup_fd(earlier)
        ended.set()
        os.close(writing)
        thread.join()
        os.close(reading)
        signal.signal(_NUDGE, before)
