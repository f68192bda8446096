"""Refusals of the kernel, for real: what doctor says of them, and that a run says the same."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

pytestmark = pytest.mark.kernel("userns", "procfs", "veth", "mount_setattr", "pidfd", "workload")

# Each makes the kernel refuse this process something, as a host, an engine or a service manager does.
NO_NAMESPACES = """
from nsharness.linux import userns
userns.enter_new()
userns.forbid_nested(os.open("/proc", os.O_PATH))
"""
SECCOMP = """
import ctypes, platform, struct
number = {"x86_64": 272, "aarch64": 97}[platform.machine()]  # unshare
program = b"".join(
    struct.pack("=HBBI", *line)
    for line in [(0x20, 0, 0, 0), (0x15, 0, 1, number), (0x06, 0, 0, 0x50001), (0x06, 0, 0, 0x7FFF0000)]
)
class Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_char_p)]
libc = ctypes.CDLL(None, use_errno=True)
assert libc.prctl(38, 1, 0, 0, 0) == 0  # PR_SET_NO_NEW_PRIVS
assert libc.prctl(22, 2, ctypes.byref(Program(4, program)), 0, 0) == 0  # PR_SET_SECCOMP
"""
COVERED_PROC = """
from nsharness.linux import libc, mounts, userns
userns.enter_new(os.CLONE_NEWNS)
libc.mount(None, "/", None, mounts.MS_REC | mounts.MS_SLAVE)
libc.mount("/dev/null", "/proc/version", None, mounts.MS_BIND)
"""
NO_NETWORKS = """
from nsharness.linux import userns
userns.enter_new()
open("/proc/sys/user/max_net_namespaces", "w").write("0")
"""
NO_CAPABILITIES = """
from nsharness.linux import process
process.set_capabilities()
"""
NOTHING = ""


def nsharness(refusal: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    program = (
        f"import os, sys\n{refusal}\nfrom nsharness.cli import main\nsys.exit(main({list(arguments)}))\n"
    )
    return subprocess.run([sys.executable, "-I", "-c", program], capture_output=True, text=True, timeout=60)


def checks(refusal: str) -> tuple[int, dict[str, Any]]:
    done = nsharness(refusal, "doctor", "--json")
    assert done.stderr == ""
    return done.returncode, {check["name"]: check for check in json.loads(done.stdout)["checks"]}


def red(found: dict[str, Any]) -> dict[str, tuple[str, int]]:
    return {name: (c["step"], c["errno"]) for name, c in found.items() if c["level"] == "red"}


def test_where_all_is_allowed_nothing_is_red() -> None:
    code, found = checks(NOTHING)
    assert code in (0, 1)
    assert red(found) == {}


@pytest.mark.rootless
@pytest.mark.parametrize(
    ("refusal", "name", "step", "errno", "remedy"),
    [
        (NO_NAMESPACES, "user namespaces", "unshare-user", 28, "user.max_user_namespaces"),
        (NO_NETWORKS, "network", "unshare-net", 28, "user.max_net_namespaces"),
        (COVERED_PROC, "processes", "proc", 1, ("/proc", "unconfined", "unmask")),
    ],
    ids=["user-limit", "net-limit", "covered-proc"],
)
def test_a_refused_step_is_named_with_what_helps(
    refusal: str, name: str, step: str, errno: int, remedy: str | tuple[str, ...]
) -> None:
    code, found = checks(refusal)
    assert code == 2
    assert red(found)[name] == (step, errno)
    words = (remedy,) if isinstance(remedy, str) else remedy
    assert any(word in found[name]["remedy"] for word in words), found[name]


@pytest.mark.root
def test_root_without_capabilities_is_told_which_are_missing() -> None:
    code, found = checks(NO_CAPABILITIES)
    assert code == 2
    assert red(found)["user namespaces"] == ("unshare-mount", 1)
    assert "SYS_ADMIN" in found["user namespaces"]["remedy"]


def test_a_filter_that_refuses_unshare_is_told_from_a_setting() -> None:
    code, found = checks(SECCOMP)
    assert code == 2
    step = "unshare-mount" if os.geteuid() == 0 else "unshare-user"
    assert red(found)["user namespaces"] == (step, 1)
    assert "filter forbids it" in found["user namespaces"]["finding"]
    assert [name for name, check in found.items() if check["level"] == "skipped"][:2] == [
        "processes",
        "workload's namespace",
    ]


@pytest.mark.parametrize(
    ("refusal", "name"),
    [
        (SECCOMP, "user namespaces"),
        pytest.param(NO_NAMESPACES, "user namespaces", marks=[pytest.mark.rootless, pytest.mark.slow]),
        pytest.param(NO_NETWORKS, "network", marks=[pytest.mark.rootless, pytest.mark.slow]),
        pytest.param(COVERED_PROC, "processes", marks=[pytest.mark.rootless, pytest.mark.slow]),
    ],
    ids=["filter", "user-limit", "net-limit", "covered-proc"],
)
def test_a_run_that_cannot_start_gives_the_same_remedy_in_one_line(refusal: str, name: str) -> None:
    """K12: no layer, no run; and the reader is told what to do here."""
    remedy = checks(refusal)[1][name]["remedy"]
    done = nsharness(refusal, "run", "stage4")
    assert done.returncode == 125
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert f"({remedy})" in done.stderr
