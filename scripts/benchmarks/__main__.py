"""``scripts/bench``: measure, and print tables of figures and ratios; with ``--json`` keep every figure."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
from pathlib import Path

sys.path.insert(1, str(Path(__file__).resolve().parents[2]))

import layers
import refusals
import requests
import scale
import starts
import transfers

PARTS = {
    "starts": starts,
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


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", choices=[[], *PARTS], help=", ".join(PARTS))
    parser.add_argument("--quick", action="store_true", help="fewer rounds: under a minute")
    parser.add_argument("--peers", metavar="DIR", action="append", default=[], help="peers are in DIR/bin")
    parser.add_argument("--json", metavar="FILE", help="write every figure there")
    options = parser.parse_args()
    _find_peers(options.peers)
    rounds = 6 if options.quick else 30
    machine = f"{platform.release()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    print(f"{machine}, {'root' if os.geteuid() == 0 else 'an ordinary user'}")
    found = []
    for name in options.parts or PARTS:
        with tempfile.TemporaryDirectory(prefix="nsb-", ignore_cleanup_errors=True) as folder:
            Path(folder).chmod(0o711)
            for table in PARTS[name].tables(Path(folder), rounds):
                print("\n" + "\n".join(table.lines()), flush=True)
                found.append(table.to_json())
    if options.json:
        Path(options.json).write_text(json.dumps({"machine": machine, "tables": found}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
