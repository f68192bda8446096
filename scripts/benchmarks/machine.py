"""What was measured on."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
from pathlib import Path

_VERSIONED = ("wrk", "bwrap", "firejail", "crun", "envoy", "srt", "codex", "node")
_VERSION = re.compile(r"\d+\.\d+(\.\d+)*")


def described() -> dict[str, str]:
    """Processor, memory, kernel, versions; nothing that names it."""
    cpu = re.search(r"model name\s*:\s*(.*)", Path("/proc/cpuinfo").read_text())
    memory = int(Path("/proc/meminfo").read_text().split()[1]) / (1 << 20)
    return {
        "processor": f"{cpu[1] if cpu else platform.machine()}, {os.cpu_count()} cores",
        "memory": f"{memory:.0f} GiB",
        "kernel": platform.release(),
        "load before": f"{os.getloadavg()[0]:.1f}",
        "Python": platform.python_version(),
        "user": "root" if os.geteuid() == 0 else "an ordinary user",
        "nsharness": importlib.metadata.version("nsharness"),
        "mitmproxy": importlib.metadata.version("mitmproxy"),
        **{name: version for name in _VERSIONED if (version := _version(name))},
    }


def _version(name: str) -> str:
    if shutil.which(name) is None:
        return ""
    option = "-v" if name == "wrk" else "--version"
    done = subprocess.run([name, option], capture_output=True, text=True)
    found = _VERSION.search(done.stdout + done.stderr)
    return found[0] if found else ""
