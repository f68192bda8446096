"""Measure, and print tables of figures and ratios; keep them, and make a page of them."""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(1, str(Path(__file__).resolve().parents[2]))

import imports
import layers
import machine
import refusals
import report
import requests
import scale
import starts
import transfers

PARTS = {
    "starts": starts,
    "imports": imports,
    "layers": layers,
    "refusals": refusals,
    "requests": requests,
    "transfers": transfers,
    "scale": scale,
}


def _find_peers(folders: list[str]) -> None:
    """Virtual environments, or npm's prefixes: of their programs those that are not found otherwise, and the
    first Python for its libraries."""
    places = [str(Path(folder, "bin").absolute()) for folder in folders]
    os.environ["PATH"] = os.pathsep.join([os.environ.get("PATH", os.defpath), *places])
    pythons = [Path(place, "python") for place in places if Path(place, "python").exists()]
    if pythons:
        os.environ[starts.PEERS_PYTHON] = str(pythons[0])


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", choices=[[], *PARTS], help=", ".join(PARTS))
    parser.add_argument("--quick", action="store_true", help="fewer rounds: about a minute")
    parser.add_argument("--peers", metavar="DIR", action="append", default=[], help="peers are in DIR/bin")
    parser.add_argument("--json", metavar="FILE", help="keep the figures there")
    parser.add_argument("--report", metavar="DIR", help="make benchmarks.md, .svg and .json there")
    parser.add_argument(
        "--from",
        dest="records",
        metavar="FILE",
        action="append",
        default=[],
        help="measure nothing: take the figures that --json has kept, of several runs together",
    )
    return parser.parse_args()


def main() -> int:
    options = _arguments()
    if options.records:
        records = [json.loads(Path(name).read_text(encoding="utf-8")) for name in options.records]
        record = {**records[-1], "tables": [table for each in records for table in each["tables"]]}
    else:
        _find_peers(options.peers)
        record = _measured(options.parts or list(PARTS), 6 if options.quick else 30)
    text = json.dumps(record, indent=1, ensure_ascii=False) + "\n"
    if options.json:
        Path(options.json).write_text(text, encoding="utf-8")
    if options.report:
        made = {"json": text, "md": report.page(record), "svg": report.plot(record)}
        for suffix, content in made.items():
            Path(options.report, f"benchmarks.{suffix}").write_text(content, encoding="utf-8")
    return 0


def _measured(parts: list[str], rounds: int) -> dict[str, Any]:
    described = machine.described()
    print(", ".join(f"{name} {value}" for name, value in described.items()))
    found = []
    for name in parts:
        with tempfile.TemporaryDirectory(prefix="nsb-", ignore_cleanup_errors=True) as folder:
            Path(folder).chmod(0o711)
            for table in PARTS[name].tables(Path(folder), rounds):
                print("\n" + "\n".join(table.lines()), flush=True)
                found.append(table.to_json())
    return {"machine": described, "tables": found}


if __name__ == "__main__":
    sys.exit(main())
