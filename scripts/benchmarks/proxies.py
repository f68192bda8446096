"""Proxies that do a part of the same, each in front of a port of this machine, with a header that it adds."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from nsharness.linux.fds import await_readable

_HERE = Path(__file__).resolve().parent
_ADDON = """
from mitmproxy import http
def request(flow: http.HTTPFlow) -> None:
    if flow.request.host == "127.0.0.1":
        flow.request.headers["authorization"] = "Bearer bench"
"""
PYTHON = "NSHARNESS_BENCH_PYTHON"
"""Environment variable: a Python in which peers are installed."""
MITMDUMP = "mitmdump with a ten-line addon"
_SECONDS = 20.0
_TYPES = "type.googleapis.com/envoy.extensions.filters"


@dataclass(frozen=True, slots=True)
class Way:
    """Where a client asks, and what it has to show there."""

    url: str
    headers: tuple[str, ...] = ()
    prefix: str = ""
    """What every target begins with, when it is not the URL's path."""


@contextmanager
def _started(argv: Sequence[str], *descriptors: int) -> Iterator[None]:
    process = subprocess.Popen(
        argv, pass_fds=descriptors, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/"
    )
    try:
        yield
    finally:
        process.kill()
        process.wait()


@contextmanager
def service(certificate: str = "") -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as sock:
        argv = [sys.executable, "-I", str(_HERE / "upstream.py"), str(sock.fileno())]
        with _started([*argv, certificate] if certificate else argv, sock.fileno()):
            yield int(sock.getsockname()[1])


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


def _await(port: int) -> int:
    for _ in range(600):
        with socket.socket() as client:
            client.settimeout(1)
            if client.connect_ex(("127.0.0.1", port)) == 0:
                return port
        subprocess.run(["sleep", "0.05"])
    raise RuntimeError("a peer did not start")


@contextmanager
def mitmdump(folder: Path, port: int, *, authority: str = "") -> Iterator[Way]:
    """As a reverse proxy; with ``authority``, which says whom to trust, for TLS on both sides."""
    (folder / "addon.py").write_text(_ADDON)
    free = _free_port()
    program = str(Path(sys.executable).with_name("mitmdump"))
    scheme = "https" if authority else "http"
    # The name on the certificate is not the address that is asked: nobody looks, in neither direction.
    settings = ["--set", f"confdir={folder}", "-q", "-s", str(folder / "addon.py"), "--ssl-insecure"]
    mode = ["--mode", f"reverse:{scheme}://127.0.0.1:{port}@127.0.0.1:{free}"]
    with _started([program, *settings, *mode]):
        yield Way(f"{scheme}://127.0.0.1:{_await(free)}/")


def _address(port: int) -> dict[str, object]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


@contextmanager
def envoy(folder: Path, port: int) -> Iterator[Way]:
    """With one worker thread, as a reverse proxy that sets the header."""
    free = _free_port()
    header = {"key": "authorization", "value": "Bearer bench"}
    host = {
        "name": "all",
        "domains": ["*"],
        "request_headers_to_add": [{"header": header}],
        "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "up"}}],
    }
    http = {
        "@type": f"{_TYPES}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "bench",
        "route_config": {"virtual_hosts": [host]},
        "http_filters": [
            {
                "name": "envoy.filters.http.router",
                "typed_config": {"@type": f"{_TYPES}.http.router.v3.Router"},
            }
        ],
    }
    chain = {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": http}]}
    endpoint = {"lb_endpoints": [{"endpoint": {"address": _address(port)}}]}
    cluster = {
        "name": "up",
        "type": "STATIC",
        "load_assignment": {"cluster_name": "up", "endpoints": [endpoint]},
    }
    listener = {"address": _address(free), "filter_chains": [chain]}
    config = folder / "envoy.json"
    config.write_text(json.dumps({"static_resources": {"listeners": [listener], "clusters": [cluster]}}))
    with _started(["envoy", "-c", str(config), "--concurrency", "1", "-l", "error", "--disable-hot-restart"]):
        yield Way(f"http://127.0.0.1:{_await(free)}/")


@contextmanager
def nono(folder: Path, port: int) -> Iterator[Way]:
    """As a reverse proxy, for clients that show what their sandbox was given."""
    argv = [os.environ[PYTHON], str(_HERE / "peer.py"), "nono-proxy", str(port)]
    pipe = subprocess.PIPE
    with subprocess.Popen(
        argv, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True, cwd="/"
    ) as process:
        assert process.stdout is not None
        try:
            if not await_readable(process.stdout.fileno(), _SECONDS):
                raise RuntimeError("nono-py did not start")
            free, token = process.stdout.readline().split()
            yield Way(f"http://127.0.0.1:{free}/bench/", (f"Authorization: Bearer {token}",))
        finally:
            process.kill()


@contextmanager
def srt(folder: Path, port: int, *, authority: str = "") -> Iterator[Way]:
    """The proxy that its sandboxes have, by itself; with ``authority`` the part that looks into TLS."""
    free = _free_port()
    scheme = "https" if authority else "http"
    root = Path(os.path.realpath(str(shutil.which("srt")))).parent
    with _started(["node", str(_HERE / "srt.mjs"), str(root), scheme, str(free), str(port), authority]):
        asked = f"{scheme}://127.0.0.1:{_await(free)}/"
        yield Way(asked, prefix="" if authority else f"http://127.0.0.1:{port}/")


type Start = Callable[[Path, int], AbstractContextManager[Way]]


def installed() -> dict[str, Start]:
    """Those that can be started; the others are named."""
    found: dict[str, Start] = {MITMDUMP: mitmdump}
    for name, there, start in (
        ("Envoy, one worker", shutil.which("envoy"), envoy),
        ("nono-py", os.environ.get(PYTHON), nono),
        ("srt", shutil.which("srt") and shutil.which("node"), srt),
    ):
        if there:
            found[name] = start
        else:
            print(f"requests: {name} is left out, it is not installed", file=sys.stderr)
    return found
