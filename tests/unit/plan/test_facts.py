"""What is found out about the host before a plan is made."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from nsharness.plan.facts import ETC_ENTRIES, SYSTEM_DIRECTORIES, HostFacts, gather
from nsharness.plan.trust import PLACES


def kind_of(path: Path) -> str | None:
    return gather([str(path)]).kind(str(path))


def test_files_and_directories_are_told_apart(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    assert kind_of(tmp_path) == "directory"
    assert kind_of(tmp_path / "file") == "file"


def test_what_is_absent_has_no_kind(tmp_path: Path) -> None:
    assert kind_of(tmp_path / "absent") is None


@pytest.mark.parametrize("below", ["", "inner"])
def test_a_path_over_a_symbolic_link_counts_as_one(tmp_path: Path, below: str) -> None:
    """K23: what is checked must be what is mounted."""
    (tmp_path / "real" / "inner").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    path = tmp_path / "link" / below
    facts = gather([str(path)])
    assert facts.kind(str(path)) == "symlink"
    assert facts.entries[str(path)].target == str(tmp_path / "real" / below).rstrip("/")


def test_sockets_and_pipes_are_no_files(short_tmp: Path) -> None:
    """K13."""
    os.mkfifo(short_tmp / "pipe")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(short_tmp / "socket"))
        assert kind_of(short_tmp / "socket") == "special"
    assert kind_of(short_tmp / "pipe") == "special"


def test_devices_are_no_files() -> None:
    assert kind_of(Path("/dev/null")) == "special"


def test_only_what_is_listed_and_what_is_asked_for_is_looked_at(tmp_path: Path) -> None:
    entries = gather([str(tmp_path)]).entries
    assert set(entries) <= {*SYSTEM_DIRECTORIES, *ETC_ENTRIES, *PLACES, str(tmp_path)}
    assert "/usr" in entries


def test_nothing_private_of_etc_is_listed() -> None:
    private = (
        "shadow",
        "sudoers",
        "ssh",
        "passwd",
        "machine-id",
        "krb5",
        "docker",
        "environment",
        "fstab",
        "hosts",
    )
    assert not [path for path in ETC_ENTRIES if any(name in path for name in private)]


def test_an_unknown_path_has_no_kind() -> None:
    assert HostFacts().kind("/usr") is None


def test_trusted_certificates_that_change_are_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A session may live for days, and the machine's certificates are replaced meanwhile."""
    bundle, folder = tmp_path / "bundle.pem", tmp_path / "certs"
    bundle.write_text("one")
    folder.mkdir()
    monkeypatch.setattr("nsharness.plan.facts.CA_BUNDLES", (str(bundle),))
    monkeypatch.setattr("nsharness.plan.facts.CERTIFICATE_DIRECTORIES", (str(folder),))
    assert gather().ca_bundle == "one"
    assert gather().certificates[str(folder)].names == ()
    replacement = tmp_path / "new"
    replacement.write_text("two")
    replacement.replace(bundle)
    (folder / "11111111.0").write_text("x")
    assert gather().ca_bundle == "two"
    assert gather().certificates[str(folder)].names == ("11111111.0",)
