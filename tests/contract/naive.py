"""An engine that does what three products did: the rule is matched on the Host header, the connection goes
wherever the request leads. The same library as ours, as it comes, with the obvious addon."""

from __future__ import annotations

import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from nsharness.policy.model import Policy
from tests.contract.engine import Entrance, Served, Setup
from tests.proxy.dnsclient import Reply
from tests.proxy.rig import DEADLINE

_PROGRAM = """
import asyncio, sys
from mitmproxy import options
from mitmproxy.tools.dump import DumpMaster

class Naive:
    def request(self, flow):
        if flow.request.pretty_host == sys.argv[1]:
            flow.request.headers["Authorization"] = sys.argv[2]

    def running(self):
        print(self.master.addons.get("proxyserver").listen_addrs()[0][1], flush=True)

async def main():
    settings = options.Options(listen_host="127.0.0.1", listen_port=0, confdir=sys.argv[3])
    naive = Naive()
    naive.master = DumpMaster(settings, with_termlog=False, with_dumper=False)
    naive.master.addons.add(naive)
    settings.update(ssl_insecure=True, connection_strategy="lazy")
    await naive.master.run()

asyncio.run(main())
"""


class NaiveSandbox:
    """What there is of it: an explicit proxy."""

    def __init__(self, port: int) -> None:
        self._port = port

    def dial(self, entrance: Entrance, host: str = "") -> socket.socket:
        assert entrance == "explicit"
        return socket.create_connection(("127.0.0.1", self._port), DEADLINE)

    def resolve(self, name: str, kind: int) -> Reply:
        raise NotImplementedError

    def trust(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        return context

    def certificate(self) -> tuple[str, str]:
        raise NotImplementedError

    def audit(self) -> list[dict[str, Any]]:
        return []

    def said(self) -> str:
        return ""

    def reload(self, policy: Policy | Mapping[str, Any]) -> bool:
        return False

    def refuse(self, host: str) -> None:
        raise NotImplementedError

    def crash(self) -> AbstractContextManager[None]:
        raise NotImplementedError


class Naive:
    """Gives the credential of one host to whoever says that it goes there."""

    def __init__(self, host: str, value: str) -> None:
        self._host, self._value = host, value

    @contextmanager
    def serve(self, name: str, setup: Setup, folder: Path) -> Iterator[Served]:
        arguments = [sys.executable, "-I", "-c", _PROGRAM, self._host, self._value, str(folder / name)]
        with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as process:
            try:
                assert process.stdout is not None
                yield NaiveSandbox(int(process.stdout.readline()))
            finally:
                process.kill()
