"""Requests through the proxy, from inside a sandbox, beside mitmdump and no proxy at all; made by wrk(1)."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from measure import Contender, Table, compare
from sandboxed import running

from nsharness.supervisor.sandbox import NamespaceSandbox

_HERE = Path(__file__).resolve().parent
_UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0}
_ADDON = """
from mitmproxy import http
def request(flow: http.HTTPFlow) -> None:
    if flow.request.host == "127.0.0.1":
        flow.request.headers["authorization"] = "Bearer bench"
"""


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
def _service() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as sock:
        argv = [sys.executable, "-I", str(_HERE / "upstream.py"), str(sock.fileno())]
        with _started(argv, sock.fileno()):
            yield int(sock.getsockname()[1])


@contextmanager
def _mitmdump(folder: Path, port: int) -> Iterator[int]:
    (folder / "addon.py").write_text(_ADDON)
    with socket.create_server(("127.0.0.1", 0)) as sock:
        free = int(sock.getsockname()[1])
    program = str(Path(sys.executable).with_name("mitmdump"))
    settings = ["--set", f"confdir={folder}", "-q", "-s", str(folder / "addon.py")]
    mode = ["--mode", f"reverse:http://127.0.0.1:{port}@127.0.0.1:{free}"]
    with _started([program, *settings, *mode]):
        for _ in range(600):
            with socket.socket() as client:
                client.settimeout(1)
                if client.connect_ex(("127.0.0.1", free)) == 0:
                    break
            subprocess.run(["sleep", "0.05"])
        yield free


def _wrk(url: str, connections: int, seconds: int) -> list[str]:
    return ["wrk", "--latency", "-t1", f"-c{connections}", f"-d{seconds}s", url]


def _found(pattern: str, output: str) -> re.Match[str]:
    match = re.search(pattern, output)
    if match is None or "Non-2xx" in output:
        raise RuntimeError(f"wrk did not get what it asked for:\n{output}")
    return match


def _rate(output: str) -> float:
    return float(_found(r"Requests/sec:\s+([\d.]+)", output)[1])


def _latency(output: str) -> float:
    match = _found(r"50%\s+([\d.]+)(us|ms|s)", output)
    return float(match[1]) * _UNITS[match[2]]


def _outside(port: int, connections: int, seconds: int, read: Callable[[str], float]) -> Contender:
    def run() -> float:
        argv = _wrk(f"http://127.0.0.1:{port}/", connections, seconds)
        output = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
        return read(output)

    return run


def _inside(
    sandbox: NamespaceSandbox, connections: int, seconds: int, read: Callable[[str], float]
) -> Contender:
    def run() -> float:
        done = sandbox.run(_wrk("http://bench.example/", connections, seconds))
        return read(done.stdout.decode())

    return run


def tables(folder: Path, rounds: int) -> Iterator[Table]:
    """Throughput with 32 connections, latency with one; plain HTTP, 500 bytes, connections kept."""
    if shutil.which("wrk") is None:
        print("requests: left out, wrk is not installed (apt-get install wrk)", file=sys.stderr)
        return
    rounds = max(2, rounds // 6)
    with _service() as port, running(folder, port) as sandbox, _mitmdump(folder, port) as peer:
        for title, connections, read, unit, scale in (
            ("Requests, 32 connections", 32, _rate, "1/s", 1.0),
            ("Latency, one connection (median)", 1, _latency, "ms", 1000.0),
        ):
            contenders = {
                "mitmdump with a ten-line addon": _outside(peer, connections, 2, read),
                "nsharness, from a sandbox": _inside(sandbox, connections, 2, read),
                "no proxy": _outside(port, connections, 2, read),
            }
            yield compare(title, contenders, rounds, unit=unit, scale=scale)
