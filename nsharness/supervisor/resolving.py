"""The resolver process, from the supervisor's side: started, asked once, and gone."""

from __future__ import annotations

import json
import os
import subprocess
import threading
from typing import Any, Final

from nsharness.errors import NsharnessError
from nsharness.linux import fds
from nsharness.supervisor.child import Child

_RESOLVE_SECONDS: Final = 60.0


class Resolver:
    """One that waits for its request. It will write into ``content``, a memfd that stays the caller's."""

    def __init__(self, content: int) -> None:
        """``NsharnessError`` when it cannot be started."""
        self._unasked = True
        request_read, self._request = os.pipe2(os.O_CLOEXEC)
        self._reply, reply_write = os.pipe2(os.O_CLOEXEC)
        arguments = ["--request-fd", request_read, "--reply-fd", reply_write, "--map-fd", content]
        try:
            self._child = Child(
                "nsharness.credentials.resolver",
                [str(argument) for argument in arguments],
                [request_read, reply_write, content],
            )
        except BaseException:
            fds.close_all([self._request, self._reply])
            raise
        finally:
            fds.close_all([request_read, reply_write])

    @property
    def alive(self) -> bool:
        """Whether it still waits."""
        return self._child.poll() is None

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """Everything about the map but its values. It has ended when this returns; ``NsharnessError`` with
        what is missing or wrong."""
        self._unasked = False
        # The request may exceed what a pipe holds while the resolver still starts.
        writer = threading.Thread(target=_write, args=(self._request, json.dumps(request).encode()))
        writer.start()
        try:
            with os.fdopen(self._reply, "rb") as stream:
                answer = stream.read()
            self._child.wait(_RESOLVE_SECONDS)
            reply = json.loads(answer)
        except (ValueError, subprocess.TimeoutExpired):
            raise NsharnessError(
                "cannot resolve the credentials", why=self._child.complaint() or "the resolver gave no answer"
            ) from None
        finally:
            self._child.end(0)
            writer.join()
        if "error" in reply:
            error = reply["error"]
            raise NsharnessError(error["what"], why=error["why"], hint=error["hint"])
        return dict(reply)

    def dismiss(self) -> None:
        """Nobody has anything to ask: it is ended, which is not waited for. Idempotent."""
        if self._unasked:
            self._unasked = False
            # It would see the end, too, but then take its interpreter apart, while others need processors.
            self._child.kill()
            fds.close_all([self._request, self._reply])

    def close(self) -> None:
        """The same, and wait for it."""
        self.dismiss()
        self._child.end()


def _write(descriptor: int, data: bytes) -> None:
    try:
        fds.write_all(descriptor, data)
    except OSError:
        return  # The resolver ended early; its reply says why.
    finally:
        os.close(descriptor)
