"""The mock services of the demo and the tests: ``wiki.local`` and ``webhook.local`` on one loopback port."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Mapping
from typing import Final

from nsharness.errors import NsharnessError
from nsharness.linux import fds
from nsharness.supervisor.channel import Channel, Message
from nsharness.supervisor.child import Child
from nsharness.supervisor.console import names
from nsharness.supervisor.session import Session

HOSTS: Final = ("webhook.local", "wiki.local")
_START_SECONDS: Final = 30.0


class MockServices:
    """A context manager: the services run inside the block.

    ``digests`` holds the SHA-256 (hex) of each host's token; a host without one lets nobody in. The port is
    on the host's loopback: no sandbox has a route to it, only the proxy, through ``upstreams``.
    """

    def __init__(self, session: Session, digests: Mapping[str, str]) -> None:
        self._session = session
        self._digests = dict(digests)
        self._ready = threading.Event()

    def __enter__(self) -> MockServices:
        ours, theirs = fds.message_pair()
        tokens = fds.memfd("digests", json.dumps(self._digests).encode())
        with socket.create_server(("127.0.0.1", 0), backlog=128) as listener, theirs:
            self.port: int = listener.getsockname()[1]
            numbers = [listener.fileno(), tokens, theirs.fileno()]
            options = ("--listen-fd", "--tokens-fd", "--events-fd")
            arguments = [str(word) for pair in zip(options, numbers, strict=True) for word in pair]
            try:
                self._child = Child(
                    "nsharness_mocks",
                    [*arguments, *self._session.drop_arguments],
                    numbers,
                    run=self._session.run.id,
                )
            except BaseException:
                ours.close()
                raise
            finally:
                fds.close_all([tokens])
        self._channel = Channel(self._session.hub, ours, self._on_event, self._on_end)
        if self._child.poll() is None:
            self._report(f"Started (pid {self._child.pid}, hosts={names(HOSTS)})")
        return self

    @property
    def pid(self) -> int:
        """The pid of the process that serves them."""
        return self._child.pid

    @property
    def upstreams(self) -> dict[str, str]:
        """Where the proxy finds the services, in the form that a profile's ``upstreams`` has."""
        return {f"{host}:80": f"127.0.0.1:{self.port}" for host in HOSTS}

    def _report(self, text: str) -> None:
        self._session.reporter.line("mock-services", text)

    def _on_event(self, message: Message, descriptors: list[int]) -> None:
        fds.close_all(descriptors)
        match message.get("event"):
            case "ready":
                self._ready.set()
            case "request":
                self._report(
                    f"{message['method']} {message['path']} "
                    f"(host={message['host']}, auth={message['auth']}) → {message['status']}"
                )

    def _on_end(self) -> None:
        if not self._ready.is_set():
            self._report(f"ended before it was ready: {self._child.complaint()}")
        self._ready.set()

    def wait_ready(self, timeout: float = _START_SECONDS) -> None:
        """Return when requests are being served (before, they wait in the backlog)."""
        if not self._ready.wait(timeout) or self._child.poll() is not None:
            raise NsharnessError("the mock services did not start", why=self._child.complaint())

    def __exit__(self, *_: object) -> None:
        self._channel.close()
        self._child.end()
