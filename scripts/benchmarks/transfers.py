"""Large bodies through the proxy, a header injected and answers scrubbed, and curl(1) without a proxy."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

from measure import Contender, Row, Table, compare
from sandboxed import both_engines, memory

from nsharness.supervisor.sandbox import NamespaceSandbox

Ask = Callable[[list[str]], bytes]
_MEGABYTE = 1_000_000
_FILE = "/tmp/to-be-sent"
_TAKEN = ["curl", "-sSf", "-k", "-o", "/dev/null", "-w", "%{time_total} %{size_download} %{size_upload}"]


def _outside(argv: list[str]) -> bytes:
    return subprocess.run(argv, capture_output=True, check=True).stdout


def _inside(box: NamespaceSandbox) -> Ask:
    def ask(argv: list[str]) -> bytes:
        done = box.run(argv, timeout=300)
        if done.exit_code != 0:
            raise RuntimeError(f"curl did not get what it asked for: {done.stderr.decode()}")
        return done.stdout

    return ask


def _download(ask: Ask, url: str, size: int) -> Contender:
    def run() -> float:
        seconds, came, _ = ask([*_TAKEN, f"{url}bytes/{size}"]).split()
        assert int(came) == size
        return float(seconds)

    return run


def _upload(ask: Ask, url: str, path: str, size: int) -> Contender:
    def run() -> float:
        seconds, _, went = ask([*_TAKEN, "-H", "Expect:", "--data-binary", f"@{path}", url]).split()
        assert int(went) == size
        return float(seconds)

    return run


def tables(folder: Path, rounds: int) -> Iterator[Table]:
    """10 MB down and up, plain and inside TLS; 1 GB (100 MB where it has to be quick), and what proxies have
    in memory before and after that."""
    quick = rounds <= 6
    content = bytes(10 * _MEGABYTE)
    (folder / "sent").write_bytes(content)
    with both_engines(folder) as (port, tls_port, boxes):
        for box in boxes.values():
            box.run(["bash", "-c", f"cat > {_FILE}"], stdin=content)
        for scheme, direct in (
            ("http", f"http://127.0.0.1:{port}/"),
            ("https", f"https://127.0.0.1:{tls_port}/"),
        ):
            size = len(content)
            url = f"{scheme}://bench.example/"
            kind = "plain" if scheme == "http" else "TLS on both sides"
            down = {"no proxy": _download(_outside, direct, size)}
            up = {"no proxy": _upload(_outside, direct, str(folder / "sent"), size)}
            for engine, box in boxes.items():
                down[f"nsharness, {engine}"] = _download(_inside(box), url, size)
                up[f"nsharness, {engine}"] = _upload(_inside(box), url, _FILE, size)
            yield compare(f"Download of 10 MB, {kind}", down, max(3, rounds // 3))
            yield compare(f"Upload of 10 MB, {kind}", up, max(3, rounds // 3))
        before = {engine: memory(box) for engine, box in boxes.items()}
        size, words = (100, "100 MB") if quick else (1000, "1 GB")
        large = {"no proxy": _download(_outside, f"http://127.0.0.1:{port}/", size * _MEGABYTE)}
        for engine, box in boxes.items():
            large[f"nsharness, {engine}"] = _download(_inside(box), "http://bench.example/", size * _MEGABYTE)
        yield compare(f"Download of {words}, plain", large, 1 if quick else 3, unit="s", scale=1.0)
        rows = tuple(
            Row(f"nsharness, {engine}, {when}", (megabytes,))
            for engine, box in boxes.items()
            for when, megabytes in (("before", before[engine]), ("after", memory(box)))
        )
        yield Table(f"Memory of the proxy, {words} later", "MB", 1.0, rows, ratios=False)
