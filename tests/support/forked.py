"""Do something in a forked child, so that what it changes about its process ends with it."""

from __future__ import annotations

import json
import os
import traceback
import warnings
from collections.abc import Callable


def in_child(action: Callable[[], object]) -> object:
    """The result of ``action`` as JSON carries it; AssertionError with the traceback when it raised."""
    reading, writing = os.pipe2(os.O_CLOEXEC)
    with warnings.catch_warnings():
        # A test worker has threads; the child uses none of what they may hold.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        try:
            answer = {"result": action()}
        except BaseException:
            answer = {"failure": traceback.format_exc()}
        os.write(writing, json.dumps(answer).encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as stream:
        answer = json.loads(stream.read() or b'{"failure": "the child ended early"}')
    os.waitpid(child, 0)
    assert "failure" not in answer, answer["failure"]
    return answer["result"]
