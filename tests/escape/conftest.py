"""The sandboxes that attacks are tried in: opened once for each module."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.attacks import Assault, Weakness


@pytest.fixture(scope="module")
def assault(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Assault]:
    """Tries an attack in a confined sandbox and in a weakened one: those of the module's weaknesses."""
    with Assault(tmp_path_factory.mktemp("assault")) as opened:
        # Before the first test, which would seem to leave them behind.
        for weak in vars(request.module).values():
            if isinstance(weak, Weakness):
                opened.box(weak)
        yield opened
