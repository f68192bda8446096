"""What the tests of this folder share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NoReturn

import pytest

from nsharness.credentials import scrub_search
from nsharness.credentials.scrub import Scrubber


@pytest.fixture(scope="module", params=["scanned", "searched"])
def search(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each test twice: with the library that scans for all forms at once, and as where it is missing."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "searched":

            def missing(*_: object, **__: object) -> NoReturn:
                raise ImportError

            patch.setattr(scrub_search, "Scanner", missing)
            for made in vars(request.module).values():
                if isinstance(made, Scrubber):
                    patch.setattr(made._search, "_scanner", None)
                    patch.setattr(made._search, "anywhere", made._search._anywhere)
        yield request.param
