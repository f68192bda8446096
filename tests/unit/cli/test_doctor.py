"""``nsharness doctor``: its lines, its exit code, its JSON, and what it does not need."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import stat
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest

from nsharness.cli import doctor as command
from nsharness.cli.doctor import lines
from nsharness.linux import apparmor, examine
from nsharness.linux.examine import Check, _space, exit_code
from nsharness.linux.probe import PROBES, Result

GREEN = Check("bash", "green", "/usr/bin/bash")
YELLOW = Check("Landlock", "yellow", "no ABI", "a layer less", "another kernel", required=False)
RED = Check("network", "red", "address: refused", "no sandbox can start", "sudo true")


@pytest.mark.parametrize(("checks", "code"), [([GREEN], 0), ([GREEN, YELLOW], 1), ([YELLOW, RED, GREEN], 2)])
def test_the_exit_code_says_ok_degraded_or_unusable(checks: list[Check], code: int) -> None:
    assert exit_code(checks) == code


def test_each_check_is_one_line_with_consequence_and_remedy() -> None:
    assert lines([GREEN, YELLOW, RED], colour=False, plain=False) == [
        "✔ bash      /usr/bin/bash",
        "▲ Landlock  no ABI; a layer less → another kernel",
        "✖ network   address: refused; no sandbox can start → sudo true",
        "Sandboxes cannot run here.",
    ]
    elsewhere = dataclasses.replace(RED, finding="/home/ä", remedy="docker run … — or sudo")
    assert lines([elsewhere], colour=False, plain=True)[0] == (
        "X  network  /home/\\xe4; no sandbox can start -> docker run ... - or sudo"
    )
    assert lines([RED], colour=True, plain=False)[0].startswith("\x1b[31m✖\x1b[0m")


@pytest.mark.parametrize(
    ("environment", "terminal", "expected"),
    [({}, True, True), ({"NO_COLOR": "1"}, True, False), ({"TERM": "dumb"}, True, False), ({}, False, False)],
)
def test_colour_is_for_terminals_that_want_it(
    environment: dict[str, str], terminal: bool, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("NO_COLOR", "TERM"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "stdout", argparse.Namespace(isatty=lambda: terminal))
    assert command._colour() is expected


def test_json_has_the_same_checks_and_the_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "examine", lambda *_: (GREEN, RED))
    assert command.doctor(argparse.Namespace(json=True, apparmor_profile=False)) == 2
    report = json.loads(capsys.readouterr().out)
    assert report["status"] == "unusable"
    assert [check["name"] for check in report["checks"]] == ["bash", "network", "limits"]


def test_what_an_earlier_refusal_hides_is_not_reported_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    refused = Result(False, "unshare-user: no", "sudo true", "unshare-user", 1)
    monkeypatch.setattr(examine, "PROBES", dict.fromkeys(PROBES, lambda: refused))
    levels = [check.level for check in examine._chain()]
    assert levels == ["red", "skipped", "skipped", "skipped", "skipped"]
    assert examine._optional("overlayfs", "overlayfs", "").level == "skipped"


def test_a_folder_that_cannot_be_written_is_told_from_one_that_can(tmp_path: Path) -> None:
    assert _space("state", tmp_path / "not" / "yet", "", nullcontext).level == "green"
    (tmp_path / "file").write_text("")
    found = _space("state", tmp_path / "file" / "below", "no records", nullcontext)
    assert (found.level, found.consequence) == ("red", "no records")
    assert "XDG_STATE_HOME" in found.remedy


def test_little_space_is_a_warning_and_none_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.statvfs(tmp_path)
    for blocks, level in ((0, "red"), ((8 << 20) // real.f_frsize, "yellow"), (1 << 30, "green")):
        fields = list(real)
        fields[4] = blocks  # f_bavail
        monkeypatch.setattr(os, "statvfs", lambda _, fields=fields: os.statvfs_result(fields))
        assert _space("state", tmp_path, "", nullcontext).level == level


def test_it_works_where_python_prctl_does_not_and_never_loads_the_proxy() -> None:
    program = (
        "import sys\n"
        "sys.modules['prctl'] = None\n"
        "from nsharness.cli import main\n"
        "code = main(['doctor', '--json'])\n"
        "print(code, 'mitmproxy' in sys.modules, 'asyncio' in sys.modules, 'pydantic' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-I", "-c", program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    report, last = done.stdout.splitlines()
    assert last == "2 False False False"
    found = {check["name"]: check for check in json.loads(report)["checks"]}
    assert found["python-prctl"]["level"] == "red"
    assert "libcap" in found["python-prctl"]["remedy"]


def test_the_profile_is_for_the_script_itself_links_resolved(tmp_path: Path) -> None:
    """An interpreter is shared: a profile for it would let every Python program make namespaces."""
    script = tmp_path / "tools" / 'odd *"name' / "nsharness"
    script.parent.mkdir(parents=True)
    script.write_text("#!/usr/bin/python3\n")
    script.chmod(0o755)
    (tmp_path / "link").symlink_to(script)
    attached = apparmor.attachment(str(tmp_path / "link"))
    assert attached == apparmor.Attachment(script, shared=False)
    text = apparmor.profile(attached)
    assert f'profile nsharness "{tmp_path}/tools/odd \\*\\"name/nsharness" flags=(unconfined) {{' in text
    assert "\n  userns,\n" in text
    assert "apparmor_parser -r" in text
    assert "CAUTION" not in text


def test_without_a_script_it_is_the_interpreters_and_says_what_that_means(tmp_path: Path) -> None:
    module = tmp_path / "__main__.py"
    module.write_text("import nsharness\n")
    (tmp_path / "python").symlink_to(os.path.realpath(sys.executable))
    attached = apparmor.attachment(str(module), str(tmp_path / "python"))
    assert attached == apparmor.Attachment(Path(sys.executable).resolve(), shared=True)
    assert "CAUTION: this is a Python interpreter" in apparmor.profile(attached)
    assert stat.S_ISREG(attached.path.lstat().st_mode)


@pytest.mark.parametrize(
    ("files", "root", "writable", "level", "finding"),
    [
        (["cgroup.controllers"], False, True, "green", "version 2, memory, pids delegated"),
        (["cgroup.controllers"], False, False, "yellow", "version 2, nothing delegated"),
        (["memory/tasks", "pids/tasks"], True, True, "green", "version 1, memory, pids"),
        (["memory/tasks", "pids/tasks"], False, False, "yellow", "version 1, not writable"),
        ([], True, True, "yellow", "not mounted"),
    ],
)
def test_control_groups_are_told_by_version_and_by_whether_we_may_use_them(
    files: list[str],
    root: bool,
    writable: bool,
    level: str,
    finding: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("cpuset memory pids\n")
    monkeypatch.setattr(examine, "_CGROUPS", tmp_path)
    monkeypatch.setattr(examine, "_own_group", lambda: tmp_path)
    monkeypatch.setattr(os, "geteuid", lambda: 0 if root else 1000)
    (tmp_path / "cgroup.procs").touch()
    monkeypatch.setattr(os, "access", lambda path, _: writable and Path(path).exists())
    found = examine._cgroups()
    assert (found.level, found.finding, found.required) == (level, finding, False)
    assert bool(found.remedy) == (level == "yellow")
