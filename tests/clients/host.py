"""A host that serves nobody without the credential: git, package indexes of pip and npm, events, an echo.

What it serves to whom is kept, so that a test can tell that a client came, and with what.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import io
import json
import ssl
import struct
import subprocess
import tarfile
import threading
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Final, Self
from urllib.parse import unquote, urlsplit

NAME: Final = "service.example"
EVENTS: Final = 3
_WAIT: Final = 20.0
_WEBSOCKET: Final = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


def wheel() -> bytes:
    """The smallest package that pip takes: ``thing`` 1.0."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("thing.py", "VALUE = 41\n")
        archive.writestr("thing-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: thing\nVersion: 1.0\n")
        tags = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        archive.writestr("thing-1.0.dist-info/WHEEL", tags)
        names = ("thing.py", *(f"thing-1.0.dist-info/{name}" for name in ("METADATA", "WHEEL", "RECORD")))
        archive.writestr("thing-1.0.dist-info/RECORD", "".join(f"{name},,\n" for name in names))
    return content.getvalue()


@cache
def tarball() -> bytes:
    """The same for npm."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as archive:
        text = json.dumps({"name": "thing", "version": "1.0.0"}).encode()
        entry = tarfile.TarInfo("package/package.json")
        entry.size = len(text)
        archive.addfile(entry, io.BytesIO(text))
    return content.getvalue()


@dataclass
class Host:
    """Listens on loopback within the block; ``credentials`` is what Authorization may be."""

    credentials: tuple[str, ...]
    tls: ssl.SSLContext
    repositories: Path
    served: list[str] = field(default_factory=list)
    """Method and path of each request that had the credential."""
    refused: list[str] = field(default_factory=list)
    acknowledged: list[threading.Event] = field(
        default_factory=lambda: [threading.Event() for _ in range(EVENTS)]
    )

    def __enter__(self) -> Self:
        host: Host = self

        class Handler(_Handler):
            of = host

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = False
        self._server.socket = self.tls.wrap_socket(
            self._server.socket, server_side=True, do_handshake_on_connect=False
        )
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    of: Host
    protocol_version = "HTTP/1.1"
    timeout = _WAIT

    def log_message(self, *_: object) -> None:
        """Nothing: what was served is in the lists."""

    def handle(self) -> None:
        # A client that does not trust the host's authority, or has enough.
        with contextlib.suppress(OSError):
            super().handle()

    def finish(self) -> None:
        with contextlib.suppress(OSError):
            super().finish()

    def do_GET(self) -> None:
        self._serve()

    do_POST = do_GET  # noqa: N815 - http.server's name
    do_PUT = do_GET  # noqa: N815
    do_HEAD = do_GET  # noqa: N815

    def _serve(self) -> None:
        path = unquote(urlsplit(self.path).path)
        body = self._body()
        if self.headers.get_all("Authorization", []) not in [[each] for each in self.of.credentials]:
            self.of.refused.append(f"{self.command} {path}")
            self._answer(b"no credential", status=401)
            return
        self.of.served.append(f"{self.command} {path}")
        for prefix, serve in self._services().items():
            if path.startswith(prefix):
                serve(path.removeprefix(prefix), body)
                return
        self._answer(b"no such thing", status=404)

    def _services(self) -> dict[str, Callable[[str, bytes], None]]:
        return {
            "/echo": lambda _, body: self._answer(b"welcome " + body),
            "/smart/": self._git,
            "/dumb/": lambda path, _: self._file(self.of.repositories / path),
            "/simple/": lambda _, __: self._answer(b'<a href="/files/thing-1.0-py3-none-any.whl">t</a>'),
            "/files/": lambda _, __: self._answer(wheel()),
            "/npm/thing/-/": lambda _, __: self._answer(tarball()),
            "/npm/": lambda _, __: self._answer(self._packument(), kind="application/json"),
            "/events": lambda _, __: self._events(),
            "/ack/": lambda number, _: self._acknowledge(int(number)),
            "/socket": lambda _, __: self._socket(),
        }

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", "0")))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _answer(self, content: bytes, *, status: int = 200, kind: str = "text/html") -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        if status == 401:
            self.send_header("WWW-Authenticate", 'Basic realm="tests"')
        # What a test leaves open would be looked for.
        self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _file(self, path: Path) -> None:
        if path.is_file():
            self._answer(path.read_bytes(), kind="application/octet-stream")
        else:
            self._answer(b"", status=404)

    def _packument(self) -> bytes:
        content = tarball()
        dist = {
            "tarball": f"https://{NAME}/npm/thing/-/thing-1.0.0.tgz",
            "integrity": "sha512-" + base64.b64encode(hashlib.sha512(content).digest()).decode(),
        }
        version = {"name": "thing", "version": "1.0.0", "description": "of the tests", "dist": dist}
        return json.dumps(
            {"name": "thing", "dist-tags": {"latest": "1.0.0"}, "versions": {"1.0.0": version}}
        ).encode()

    def _git(self, path: str, body: bytes) -> None:
        """git-http-backend(1) as CGI (RFC 3875)."""
        environment = {
            "PATH": "/usr/local/bin:/usr/bin:/bin",
            "HOME": str(self.of.repositories),
            "GIT_PROJECT_ROOT": str(self.of.repositories),
            "GIT_HTTP_EXPORT_ALL": "1",
            "GIT_CONFIG_COUNT": "1",
            "GIT_CONFIG_KEY_0": "safe.directory",
            "GIT_CONFIG_VALUE_0": "*",
            "REMOTE_USER": "tester",
            "REQUEST_METHOD": self.command,
            "PATH_INFO": f"/{path}",
            "QUERY_STRING": urlsplit(self.path).query,
            "CONTENT_TYPE": self.headers.get("Content-Type", ""),
            "CONTENT_LENGTH": str(len(body)),
            "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
            "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
        }
        done = subprocess.run(["git", "http-backend"], input=body, capture_output=True, env=environment)
        head, _, content = done.stdout.partition(b"\r\n\r\n")
        fields = dict(line.split(": ", 1) for line in head.decode().split("\r\n") if line)
        status = int(fields.get("Status", "200").split()[0])
        self._answer(content, status=status, kind=fields.get("Content-Type", "text/plain"))

    def _events(self) -> None:
        """Server-sent events. Each waits until the one before was acknowledged: nothing may collect them."""
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        for number in range(EVENTS):
            self.wfile.write(f"data: {number}\n\n".encode())
            if not self.of.acknowledged[number].wait(_WAIT):
                return
            self.of.acknowledged[number].clear()

    def _acknowledge(self, number: int) -> None:
        self.of.acknowledged[number].set()
        self._answer(b"")

    def _socket(self) -> None:
        """One WebSocket message (RFC 6455), given back in capitals."""
        key = self.headers["Sec-WebSocket-Key"] + _WEBSOCKET
        accept = base64.b64encode(hashlib.sha1(key.encode()).digest()).decode()
        self.send_response(101)
        for name, value in (("Upgrade", "websocket"), ("Connection", "Upgrade")):
            self.send_header(name, value)
        self.send_header("Sec-WebSocket-Accept", accept)
        self.end_headers()
        _, length = self.rfile.read(2)
        mask, masked = self.rfile.read(4), self.rfile.read(length & 0x7F)
        text = bytes(byte ^ mask[at % 4] for at, byte in enumerate(masked)).upper()
        self.wfile.write(struct.pack("BB", 0x81, len(text)) + text)
        self.close_connection = True
