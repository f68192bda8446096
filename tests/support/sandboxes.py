"""Sandboxes without a proxy: the test itself holds the gateway's listening sockets."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import pytest

from nsharness.linux.identity import Identity
from nsharness.linux.probe import REQUIRED
from nsharness.policy.profile import Profile
from nsharness.supervisor.attachment import Attachment
from nsharness.supervisor.proxy import NamespaceProxy
from nsharness.supervisor.sandbox import Completed, NamespaceSandbox
from nsharness.supervisor.session import Session
from tests.support.processes import alive
from tests.support.waiting import DEADLINE

needs_sandbox = pytest.mark.kernel(*REQUIRED)
"""Marks tests, or a whole module as its ``pytestmark``, that start sandboxes."""

PORTS = (80, 443, 3128, 53, 53)


class Gateway:
    """In the proxy's place: keeps the listeners and answers nothing by itself."""

    def __init__(self) -> None:
        self._sockets: list[socket.socket] = []

    def attach(self, sandbox: str, listeners: tuple[int, ...]) -> Attachment:
        self._sockets = [socket.socket(fileno=descriptor) for descriptor in listeners]
        for sock in self._sockets:
            sock.settimeout(DEADLINE)
        return Attachment(sandbox, listeners, -1, {}, None)

    def detach(self, _: str) -> None:
        sockets, self._sockets = self._sockets, []
        for sock in sockets:
            sock.close()

    def ca_pem(self, _: str) -> str:
        return ""

    def placeholder(self, ref: object) -> str:
        return f"placeholder of {ref}"

    def tcp(self, port: int) -> socket.socket:
        """The listener of a TCP port."""
        return self._sockets[{80: 0, 443: 1, 3128: 2, 53: 4}[port]]

    @property
    def dns(self) -> socket.socket:
        """The UDP socket on port 53."""
        return self._sockets[3]

    def accept(self, port: int) -> tuple[tuple[str, int], bytes]:
        """Of the next connection to a port: the address that was dialled, and what was sent first."""
        connection, _ = self.tcp(port).accept()
        with connection:
            connection.settimeout(DEADLINE)
            host, number = connection.getsockname()
            return (host, number), connection.recv(100)

    def nothing_came(self) -> bool:
        """Whether no connection and no datagram waits on any listener."""
        for sock in self._sockets:
            sock.setblocking(False)
            try:
                sock.recv(1) if sock is self.dns else sock.accept()[0].close()
            except BlockingIOError:
                sock.settimeout(DEADLINE)
                continue
            return False
        return True


class Box(NamespaceSandbox):
    """A sandbox whose gateway the test holds, with a few words for tests."""

    def __init__(self, session: Session, gateway: Gateway, **profile: Any) -> None:
        super().__init__(session, Profile(name="test", **profile), cast(NamespaceProxy, gateway))
        self.gateway = gateway

    @property
    def groups(self) -> tuple[str, ...]:
        """The control groups that were made for it."""
        return self._enforcer.made

    def bash(self, script: str, *arguments: str, cleared: bool = False, timeout: float = 60.0) -> Completed:
        """Run a script; ``cleared`` without any environment (K11)."""
        argv = [*(["env", "-i"] if cleared else []), "bash", "-c", script, "bash", *arguments]
        return self.run(argv, timeout=timeout)

    def out(self, script: str, *arguments: str, cleared: bool = False) -> str:
        """What a script writes, without the last newline. It must succeed."""
        done = self.bash(script, *arguments, cleared=cleared)
        assert done.exit_code == 0, done
        return done.stdout.decode().removesuffix("\n")


@contextmanager
def opened_session(folder: Path, identity: Identity | None = None) -> Iterator[Session]:
    """A session that keeps its state below ``folder``."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(folder))
        session = Session("test", identity=identity)
        session.__enter__()
    try:
        yield session
    finally:
        session.__exit__(None, None, None)


@contextmanager
def opened_box(session: Session, **profile: Any) -> Iterator[Box]:
    """A sandbox of its own."""
    box = Box(session, Gateway(), **profile)
    with box:
        yield box


def warm(session: Session) -> Session:
    """Return when its zygote is there under its final name: what comes later was left by a test."""
    with opened_box(session):
        return session


def namespaces_in_use() -> set[int]:
    """The inode numbers of all namespaces that some process is in or holds open, as far as we may see."""
    found: set[int] = set()
    for process in Path("/proc").iterdir():
        if process.name.isdigit() and alive(int(process.name)):
            for folder in ("ns", "fd"):
                with contextlib.suppress(OSError):
                    for entry in (process / folder).iterdir():
                        with contextlib.suppress(OSError):
                            found.add(entry.stat().st_ino)
    return found
