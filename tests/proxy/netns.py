"""A real gateway: its listeners, and sockets that are inside the sandbox's network namespace.

A socket belongs to the namespace that it was made in, wherever it is used. So one helper process,
which may have a user namespace of its own, makes the gateway and then makes sockets on request.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Self

from nsharness.linux import fds
from tests.proxy.rig import DEADLINE, Sandbox

_HELPER = """
import os, socket, sys
from nsharness.linux import fds, userns
from nsharness.sandbox import gateway

control = socket.socket(fileno=int(sys.argv[1]))
if os.geteuid() == 0:
    os.unshare(os.CLONE_NEWNET)
else:
    userns.enter_new(os.CLONE_NEWNET)
made = gateway.create(int(sys.argv[2]))
fds.send(control, {}, made.listeners)
os.setns(made.sandbox_netns, os.CLONE_NEWNET)
made.close()
while True:
    message, _ = fds.receive(control)
    if message is None:
        break
    with socket.socket(socket.AF_INET, message["kind"]) as sock:
        fds.send(control, {}, (sock.fileno(),))
"""


class Gateway:
    """A context manager; ``sandbox`` has the gateway's listeners."""

    def __init__(self, name: str, folder: Path, proxy_port: int = 3128) -> None:
        self._name = name
        self._proxy_port = proxy_port
        self._folder = folder
        self._asking = threading.Lock()

    def __enter__(self) -> Self:
        self._control, theirs = fds.message_pair()
        with theirs:
            root = Path(__file__).resolve().parents[2]
            self._helper = subprocess.Popen(
                [sys.executable, "-c", _HELPER, str(theirs.fileno()), str(self._proxy_port)],
                pass_fds=(theirs.fileno(),),
                env={**os.environ, "PYTHONPATH": str(root)},
            )
        _, listeners = fds.receive(self._control)
        assert listeners, "the helper made no gateway"
        sockets = tuple(socket.socket(fileno=descriptor) for descriptor in listeners)
        self.sandbox = Sandbox(self._name, sockets, self._folder / f"{self._name}.jsonl")
        return self

    def __exit__(self, *_: object) -> None:
        self.sandbox.close()
        self._control.close()
        self._helper.wait(DEADLINE)

    def new_socket(self, kind: int = socket.SOCK_STREAM) -> socket.socket:
        """A new socket inside the sandbox's network."""
        with self._asking:
            fds.send(self._control, {"kind": int(kind)})
            _, (descriptor,) = fds.receive(self._control)
        made = socket.socket(fileno=descriptor)
        made.settimeout(DEADLINE)
        return made

    def dial(self, address: str, port: int) -> socket.socket:
        """A connection from inside the sandbox."""
        made = self.new_socket()
        try:
            made.connect((address, port))
        except BaseException:
            made.close()
            raise
        return made
