"""What the kernel of this machine allows, asked once per test process."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from collections.abc import Iterable

# In a process of its own: the probes fork, and a test worker has threads.
_PROGRAM = """
import json
from nsharness.linux.probe import PROBES
print(json.dumps({name: (r.ok, r.why, r.hint) for name, r in ((n, p()) for n, p in PROBES.items())}))
"""


@functools.cache
def _results() -> dict[str, tuple[bool, str, str]]:
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM], capture_output=True, text=True, timeout=60, check=False
    )
    if done.returncode:
        raise RuntimeError(f"the kernel probes cannot be run:\n{done.stderr}")
    results: dict[str, tuple[bool, str, str]] = json.loads(done.stdout)
    return results


def missing(names: Iterable[str]) -> list[str]:
    """Why the named probes fail, a line each; LookupError for a name that no probe has."""
    results = _results()
    unknown = set(names) - results.keys()
    if unknown:
        raise LookupError(
            f"no kernel probe is called {', '.join(sorted(unknown))}: there are {', '.join(results)}"
        )
    return [f"{name}: {why} ({hint})" for name in names for ok, why, hint in [results[name]] if not ok]
