"""Requests through the proxy, from inside a sandbox, beside peers that are installed and no proxy at all;
made by wrk(1)."""

from __future__ import annotations

import re
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import proxies
from measure import Contender, Row, Table, compare
from proxies import MITMDUMP, Way
from sandboxed import both_engines, memory

from nsharness.supervisor.sandbox import NamespaceSandbox

_HERE = Path(__file__).resolve().parent
_SCRIPT = "/tmp/paths.lua"  # Inside.
_UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0}
# Every request is another one: who remembers the last one gains nothing.
_PATHS = """
local n = 0
local prefix = "/"
init = function(args)
  prefix = args[1] or wrk.path
end
request = function()
  n = n + 1
  return wrk.format("GET", prefix .. "page-" .. (n % 5000) .. "?q=" .. n)
end
"""
_EVENTS = """
curl -sN {} | while IFS= read -r line; do
  now=${{EPOCHREALTIME/[.,]/}}
  case $line in data:*) echo $((now - ${{line#data: }}));; esac
done
"""


def _wrk(way: Way, connections: int, seconds: int, script: str) -> list[str]:
    headers = [word for header in way.headers for word in ("-H", header)]
    options = ["--latency", "-t1", f"-c{connections}", f"-d{seconds}s", "-s", script, *headers]
    return ["wrk", *options, way.url, *(["--", way.prefix] if way.prefix else [])]


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


Ask = Callable[[list[str]], str]


def _outside(argv: list[str]) -> str:
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout


def _inside(sandbox: NamespaceSandbox) -> Ask:
    """Runs a command there, with the script for wrk where it looks for it."""
    sandbox.run(["bash", "-c", f"cat > {_SCRIPT}"], stdin=_PATHS.encode())
    return lambda argv: sandbox.run(argv).stdout.decode()


@dataclass(frozen=True, slots=True)
class _Load:
    """How many connections, for how many seconds, and what is read from what wrk says."""

    connections: int
    seconds: int
    read: Callable[[str], float]

    def asked(self, ask: Ask, way: Way, script: str) -> Contender:
        return lambda: self.read(ask(_wrk(way, self.connections, self.seconds, script)))


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
    seconds = 1 if rounds <= 6 else 2
    rounds = max(1, rounds // 6)
    paths = folder / "paths.lua"
    paths.write_text(_PATHS)
    with ExitStack() as stack:
        port, tls_port, boxes = stack.enter_context(both_engines(folder))
        peers = {
            name: stack.enter_context(start(folder, port)) for name, start in proxies.installed().items()
        }
        peers["no proxy"] = Way(f"http://127.0.0.1:{port}/")
        inside_tls = {"no proxy": Way(f"https://127.0.0.1:{tls_port}/")}
        if "srt" in peers:
            srt = proxies.srt(folder, tls_port, authority=str(folder / "authority.pem"))
            inside_tls["srt"] = stack.enter_context(srt)
        mitmdump = proxies.mitmdump(folder, tls_port, authority=str(folder / "authority.pem"))
        inside_tls[MITMDUMP] = stack.enter_context(mitmdump)
        for title, load, unit, scale in (
            ("32 connections", _Load(32, seconds, _rate), "1/s", 1.0),
            ("latency, one connection (median)", _Load(1, seconds, _latency), "ms", 1000.0),
        ):
            plain, tls = (
                {
                    f"nsharness, {engine}": load.asked(_inside(box), Way(url), _SCRIPT)
                    for engine, box in boxes.items()
                }
                for url in ("http://bench.example/", "https://bench.example/")
            )
            others, tls_others = (
                {
                    name: load.asked(_outside, way, str(paths))
                    for name, way in sorted(ways.items(), key=lambda item: item[0] != MITMDUMP)
                }
                for ways in (peers, inside_tls)
            )
            yield compare(f"Requests, {title}", {**others, **plain}, rounds, unit=unit, scale=scale)
            both = {**tls_others, **{f"{name}, plain": each for name, each in plain.items()}, **tls}
            yield compare(f"Requests inside TLS, {title}", both, rounds, unit=unit, scale=scale)
        late = {"no proxy": _events(_outside, f"http://127.0.0.1:{port}/events")}
        for engine, box in boxes.items():
            late[f"nsharness, {engine}"] = _events(_inside(box), "http://bench.example/events")
        yield compare("An event arrives, after it was sent (curl and bash included)", late, rounds)
        rows = tuple(Row(f"nsharness, {engine}", (memory(box),)) for engine, box in boxes.items())
        yield Table("Memory of the proxy", "MB", 1.0, rows)
