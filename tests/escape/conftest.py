"""The sandboxes that attacks are tried in: opened once for each module."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nsharness.linux.identity import Identity, current
from tests.support.attacks import CANARY, SECRET_FILES, SOMEBODY, Assault, Weakness


@pytest.fixture(scope="module")
def identity() -> Iterator[Identity]:
    """Somebody with secrets in the home directory; for root by way of sudo."""
    home = Path(tempfile.mkdtemp(prefix="nsharness-home-", dir="/var/tmp"))
    for name in SECRET_FILES:
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text(CANARY)
    mine = current({})
    uid = SOMEBODY if mine.privileged else mine.owner_uid
    gid = SOMEBODY if mine.privileged else mine.owner_gid
    if mine.privileged:
        for path in (home, *home.rglob("*")):
            os.chown(path, uid, gid)
    yield Identity(mine.privileged, uid, gid, "ada", home, uid, gid)
    shutil.rmtree(home)


@pytest.fixture(scope="module")
def profile() -> dict[str, Any]:
    """What the sandboxes' profile says."""
    return {}


@pytest.fixture(scope="module")
def assault(request: pytest.FixtureRequest, identity: Identity, profile: dict[str, Any]) -> Iterator[Assault]:
    """Tries an attack in a confined sandbox and in a weakened one: those of the module's weaknesses."""
    with Assault(identity.home / "state", identity, **profile) as opened:
        # Before the first test, which would seem to leave them behind.
        for weak in vars(request.module).values():
            if isinstance(weak, Weakness):
                opened.box(weak)
        yield opened
