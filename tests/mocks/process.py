"""The mocks as the supervisor starts them, and a client that speaks to them as the proxy would."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Self

from nsharness.linux import fds

WIKI_TOKEN = "wiki_0123456789abcdefghijklmnopqrstuv"
HOOK_TOKEN = "hook_zyxwvutsrqponmlkjihgfedcba987654"
DEADLINE = 10.0
"""Seconds after which a test gives up waiting; what is waited for takes milliseconds."""


def sha256(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


DIGESTS = {"wiki.local": sha256(WIKI_TOKEN), "webhook.local": sha256(HOOK_TOKEN)}


@dataclass(frozen=True, slots=True)
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(slots=True)
class Mocks:
    """A running process; ``events`` is our end of its event channel."""

    process: subprocess.Popen[str]
    events: socket.socket
    address: tuple[str, int]

    @classmethod
    def start(
        cls,
        *options: str,
        digests: object = DIGESTS,
        bind: str = "127.0.0.1",
        listen: bool = True,
        program: tuple[str, ...] = ("-m", "nsharness_mocks"),
    ) -> Self:
        ours, theirs = fds.message_pair()
        ours.settimeout(DEADLINE)
        with socket.socket() as listener, theirs:
            listener.bind((bind, 0))
            if listen:
                listener.listen()
            tokens = fds.memfd("tokens", json.dumps(digests).encode())
            passed = (listener.fileno(), tokens, theirs.fileno())
            named = [f"--listen-fd={passed[0]}", f"--tokens-fd={passed[1]}", f"--events-fd={passed[2]}"]
            try:
                process = subprocess.Popen(
                    [sys.executable, "-I", *program, *named, *options],
                    pass_fds=passed,
                    env={},
                    cwd="/",
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.PIPE,
                    text=True,
                )
            finally:
                os.close(tokens)
            return cls(process, ours, listener.getsockname())

    def event(self) -> dict[str, Any]:
        message, _ = fds.receive(self.events)
        assert message is not None, f"the mocks ended: {self.finish()}"
        return message

    def ask(
        self,
        method: str,
        host: str,
        path: str,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
    ) -> tuple[Reply, dict[str, Any]]:
        """One request on a connection of its own: the reply, and the event that it gave."""
        connection = http.client.HTTPConnection(*self.address, timeout=DEADLINE)
        try:
            connection.request(method, path, body, {"Host": host, **(headers or {})})
            response = connection.getresponse()
            reply = Reply(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
        finally:
            connection.close()
        return reply, self.event()

    def finish(self) -> tuple[int, str]:
        """Wait for its end: exit code, and what it wrote to stderr."""
        _, errors = self.process.communicate(timeout=DEADLINE)
        return self.process.returncode, errors

    def close(self) -> None:
        self.events.close()
        if self.process.returncode is None:
            self.process.send_signal(signal.SIGKILL)
            self.process.communicate()


@contextmanager
def running(*options: str, **how: Any) -> Iterator[Mocks]:
    """A process that has said that it is ready."""
    with starting(*options, **how) as mocks:
        assert mocks.event() == {"event": "ready"}
        yield mocks


@contextmanager
def starting(*options: str, **how: Any) -> Iterator[Mocks]:
    """A process that was just started, ended whatever happens."""
    mocks = Mocks.start(*options, **how)
    try:
        yield mocks
    finally:
        mocks.close()


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}
