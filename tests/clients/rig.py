"""What a test of clients has: the sandbox, the host, and what the proxy wrote down."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from nsharness.supervisor.channel import Message
from nsharness.supervisor.sandbox import Completed, NamespaceSandbox
from tests.clients.host import Host

Mode = Literal["explicit", "transparent", "bare"]

PROXIES = [f"{name}_proxy" for name in ("http", "https", "all", "no")]
CLEARED = [*PROXIES, *(name.upper() for name in PROXIES), "NODE_USE_ENV_PROXY"]


@dataclass
class Rig:
    sandbox: NamespaceSandbox
    host: Host
    token: str
    messages: list[Message]
    flush: Callable[[], None]

    def run(self, script: str, mode: Mode = "explicit", timeout: float = 60.0) -> Completed:
        """A script of bash in an empty folder, with the environment as given (``explicit``), without the
        variables about proxies (``transparent``), or with none at all (``bare``)."""
        start = {"explicit": [], "transparent": [word for name in CLEARED for word in ("-u", name)]}
        words = start.get(mode, ["-i", "HOME=/tmp", "PATH=/usr/local/bin:/usr/bin:/bin"])
        self.messages.clear()
        self.host.served.clear()
        self.host.refused.clear()
        folder = 'cd "$(mktemp -d)" && export HOME="$PWD" && ('
        text = f'{folder}\n{script}\n); code=$?; rm -rf "$PWD"; exit $code'
        done = self.sandbox.run(["env", *words, "bash", "-c", text], timeout=timeout)
        self.flush()
        # Whatever the client was: what it was given has no secret in it.
        for stream in (done.stdout, done.stderr):
            assert self.token.encode() not in stream
        return done

    def roads(self) -> set[str]:
        """The roads on which the credential was injected since the last run."""
        return {str(each["road"]) for each in self.messages if each.get("action") == "inject"}
