"""Steps and plans as values."""

from __future__ import annotations

import json

import pytest

from nsharness.plan.steps import (
    Bind,
    Cover,
    Device,
    Devpts,
    Directory,
    File,
    Links,
    Mask,
    Plan,
    Proc,
    ReadOnly,
    Step,
    Symlink,
    Tmpfs,
)

STEPS: list[tuple[Step, str]] = [
    (Directory("/a"), "directory  /a"),
    (Symlink("/bin", "usr/bin"), "symlink    /bin -> usr/bin"),
    (File("/etc/hostname", "x\n"), "file       /etc/hostname (2 characters)"),
    (File("/etc/store", "AAAA", binary=True), "file       /etc/store (3 bytes)"),
    (Links("/etc/certs", "/host", ("a", "b")), "links      /etc/certs -> /host (2 names)"),
    (Bind("/usr", "/usr"), "bind       /usr (read-only)"),
    (Bind("/host", "/here", writable=True), "bind       /here from /host (read-write)"),
    (Cover("/etc/bundle", "/etc/own"), "cover      /etc/bundle by /etc/own"),
    (Device("/dev/null"), "device     /dev/null"),
    (Tmpfs("/tmp", 64 << 20), "tmpfs      /tmp (64 MiB)"),
    (Proc(), "proc       /proc"),
    (Devpts(), "devpts     /dev/pts"),
    (Mask("/proc/kcore"), "mask       /proc/kcore"),
    (ReadOnly("/"), "read-only  /"),
]


def plan(*steps: Step) -> Plan:
    return Plan("run-1", "run-1", 1000, 1000, "/tmp", {"HOME": "/home/u"}, steps)


@pytest.mark.parametrize(("step", "text"), STEPS)
def test_a_step_describes_itself_in_one_line(step: Step, text: str) -> None:
    assert step.describe() == text


def test_a_plan_describes_every_step_in_order() -> None:
    lines = plan(*(step for step, _ in STEPS)).describe().splitlines()
    assert lines[0] == "sandbox    run-1 (uid 1000, gid 1000, cwd /tmp)"
    assert lines[-len(STEPS) :] == [text for _, text in STEPS]


@pytest.mark.parametrize("step", [step for step, _ in STEPS])
def test_every_kind_of_step_survives_json(step: Step) -> None:
    assert Plan.from_json(plan(step).to_json()) == plan(step)


def test_a_step_cannot_be_changed() -> None:
    with pytest.raises(AttributeError, match="frozen"):
        Directory("/a").path = "/b"  # type: ignore[misc]


@pytest.mark.parametrize(
    "change",
    [
        {"steps": [{"step": "unknown"}]},
        {"steps": [{"step": "mask", "path": "/x", "more": 1}]},
        {"steps": [{"path": "/x"}]},
        {"more": 1},
    ],
)
def test_what_is_no_plan_is_refused(change: dict[str, object]) -> None:
    record = json.loads(plan().to_json()) | change
    with pytest.raises((ValueError, KeyError, TypeError)):
        Plan.from_json(json.dumps(record))
