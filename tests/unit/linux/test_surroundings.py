"""Surroundings: what marks a container, a runner, an ordinary shell."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from nsharness.linux import surroundings
from nsharness.linux.surroundings import look_around


@pytest.mark.parametrize(
    ("environment", "present", "engine"),
    [
        ({}, (), ""),
        ({}, ("docker",), "docker"),
        ({}, ("podman", "docker"), "podman"),
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, ("docker",), "kubernetes"),
        ({"GITLAB_CI": "true"}, ("docker",), "gitlab"),
        ({"GITHUB_ACTIONS": "true"}, (), ""),
        ({"container": "lxc"}, (), "lxc"),
        ({"container": "systemd-nspawn"}, (), "container"),
    ],
)
def test_the_innermost_engine_is_found(
    environment: dict[str, str],
    present: tuple[str, ...],
    engine: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    files = {name: str(tmp_path / name) for name in surroundings._FILES}
    monkeypatch.setattr(surroundings, "_FILES", files)
    monkeypatch.setattr(surroundings, "_MANAGER", str(tmp_path / "manager"))
    for name in present:
        Path(files[name]).touch()
    found = look_around(environment)
    assert found.engine == engine
    assert ("github" in found.places) == ("GITHUB_ACTIONS" in environment)


def test_it_reads_this_process() -> None:
    found = look_around({})
    assert found.root == (os.geteuid() == 0)
    assert found.version.startswith("Linux version")
    assert int(found.sysctls["user.max_user_namespaces"]) >= 0
    assert found.ids >= 1


@pytest.mark.parametrize(
    ("script", "command"),
    [
        ("/home/u/.local/bin/nsharness", "/home/u/.local/bin/nsharness"),
        ("/x/__main__.py", "nsharness"),
        ("", "nsharness"),
    ],
)
def test_sudo_needs_the_full_path_of_the_script(
    script: str, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", [script])
    assert surroundings.own_command() == command
