"""How long a workload waits for a no."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from measure import Contender, Table, compare
from sandboxed import running

from nsharness.supervisor.sandbox import NamespaceSandbox

# Each prints the microseconds that it took, measured inside.
_TIMED = "b=${EPOCHREALTIME/[.,]/}; %s >/dev/null 2>&1; echo $((${EPOCHREALTIME/[.,]/} - b))"
_WAYS = {
    "TCP port 22": "exec 3<>/dev/tcp/203.0.113.7/22",
    "UDP": "exec 3<>/dev/udp/203.0.113.7/4433; printf x >&3; read -t 5 -u 3",
    "IPv6": "exec 3<>/dev/tcp/2001:db8::1/80",
    "a name that no rule allows": "getent hosts example.com",
    "a host that no rule allows, by the proxy": "curl -s http://example.com/",
    "an address, by the proxy": "curl -s --noproxy '*' http://203.0.113.7/",
    "curl --version": "curl --version",
}


def _way(sandbox: NamespaceSandbox, command: str) -> Contender:
    def ask() -> float:
        done = sandbox.run(["bash", "-c", _TIMED % f"( {command} )"])
        return int(done.stdout) / 1e6

    return ask


def tables(folder: Path, rounds: int) -> Iterator[Table]:
    """The last row is what starting curl costs by itself."""
    with running(folder) as sandbox:
        yield compare("Refused", {name: _way(sandbox, command) for name, command in _WAYS.items()}, rounds)
