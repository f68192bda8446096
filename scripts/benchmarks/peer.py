"""One start of ``true`` by a peer's library for each line, in the Python that has it: peer.py NAME. And the
proxy of nono in front of a port: peer.py nono-proxy PORT, which prints its port and what clients show it."""

from __future__ import annotations

import importlib
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

_READABLE = [path for path in ("/usr", "/lib", "/lib64", "/bin", "/etc") if Path(path).exists()]


def _sandlock() -> Callable[[], object]:
    sandlock = importlib.import_module("sandlock")
    made = sandlock.Sandbox(fs_readable=_READABLE)

    def start() -> None:
        assert made.run(["true"]).success

    return start


def _nono() -> Callable[[], object]:
    nono = importlib.import_module("nono_py")
    allowed = nono.CapabilitySet()
    for path in _READABLE:
        allowed.allow_path(path, nono.AccessMode.READ)

    def start() -> None:
        assert nono.sandboxed_exec(allowed, ["true"]).exit_code == 0

    return start


def _nitrobox() -> Callable[[], object]:
    nitrobox = importlib.import_module("nitrobox")
    kept = nitrobox.Sandbox(nitrobox.SandboxConfig(image="/"))

    def run() -> None:
        assert kept.run("true")[1] == 0

    return run


def _nono_proxy(port: str) -> None:
    nono = importlib.import_module("nono_py")
    os.environ["BENCH"] = "bench"
    route = nono.RouteConfig(
        "/bench",
        f"http://127.0.0.1:{port}",
        credential_key="env://BENCH",
        credential_format="Bearer {}",
    )
    handle = nono.start_proxy(nono.ProxyConfig(routes=[route]))
    print(handle.port, handle.env_vars()["NONO_PROXY_TOKEN"], flush=True)
    sys.stdin.read()


_MADE: dict[str, Callable[[], Callable[[], object]]] = {
    "sandlock": _sandlock,
    "nono": _nono,
    "nitrobox": _nitrobox,
}


def main() -> None:
    if sys.argv[1] == "nono-proxy":
        _nono_proxy(sys.argv[2])
        return
    start = _MADE[sys.argv[1]]()
    start()
    for _ in sys.stdin:
        begun = time.perf_counter()
        start()
        print(time.perf_counter() - begun, flush=True)


if __name__ == "__main__":
    main()
