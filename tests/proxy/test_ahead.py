"""What a proxy that waits has loaded ahead is looked at again when it is wanted."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from nsharness_proxy import tls
from nsharness_proxy.ca import CertificateAuthority


def bundle(path: Path) -> Path:
    path.write_text(CertificateAuthority.create().certificate_pem)
    return path


def replace(path: Path) -> None:
    """As package managers do it: another file under the same name, of the same size and age."""
    status = path.stat()
    other = bundle(path.with_name("new"))
    os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns))
    other.rename(path)


def rewrite(path: Path) -> None:
    """In place, with the time set back."""
    status = path.stat()
    path.write_text(path.read_text().replace("A", "B", 1))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.mark.parametrize("change", [replace, rewrite, Path.unlink])
def test_authorities_that_changed_since_are_seen(
    change: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = bundle(tmp_path / "bundle.pem")
    monkeypatch.setattr(tls, "TRUST_STORES", (str(tmp_path / "missing"), str(path)))
    made = tls.rehearsed(CertificateAuthority.create())
    assert made.trusts == str(path)
    assert made.is_current()
    assert callable(change)
    change(path)
    assert not made.is_current()


def test_a_bundle_that_comes_before_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = tmp_path / "first", bundle(tmp_path / "second")
    monkeypatch.setattr(tls, "TRUST_STORES", (str(first), str(second)))
    made = tls.HostSide()
    bundle(first)
    assert not made.is_current()
