"""A program that uses the library and has some memory of its own: caller.py FOLDER MEGABYTES. For each line
it makes a sandbox, runs ``true`` in it and ends it."""

from __future__ import annotations

import sys
import time
from pathlib import Path

sys.path.insert(1, str(Path(__file__).resolve().parents[2]))

from tests.support.sandboxes import opened_box, opened_session


def main() -> None:
    ballast = bytearray(int(sys.argv[2]) << 20)
    ballast[:: 1 << 12] = b"x" * len(range(0, len(ballast), 1 << 12))  # Every page is there.
    with opened_session(Path(sys.argv[1])) as session:
        for _ in sys.stdin:
            begun = time.perf_counter()
            with opened_box(session) as box:
                assert box.run(["true"]).exit_code == 0
            print(time.perf_counter() - begun, flush=True)


if __name__ == "__main__":
    main()
