"""The hosts and one sandbox, for all promises. To put another engine to the test, add it to ``ENGINES``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.contract.embedded import Embedded
from tests.contract.engine import Engine, Served
from tests.contract.roads import ROADS, Road
from tests.contract.world import World, world

ENGINES: dict[str, Engine] = {"mitmproxy": Embedded("mitmproxy"), "fast": Embedded("fast")}


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("contract")


@pytest.fixture(scope="session")
def hosts(folder: Path) -> Iterator[World]:
    with world(folder) as running:
        yield running


@pytest.fixture(scope="session", params=list(ENGINES.values()), ids=list(ENGINES))
def engine(request: pytest.FixtureRequest) -> Engine:
    chosen: Engine = request.param
    return chosen


@pytest.fixture(scope="session")
def sandbox(engine: Engine, hosts: World, folder: Path) -> Iterator[Served]:
    with engine.serve("main", hosts.setup(), folder) as served:
        yield served


@pytest.fixture
def served(sandbox: Served, hosts: World) -> Iterator[Served]:
    """The sandbox, before hosts that remember nothing."""
    hosts.forget()
    yield sandbox
    hosts.hang_up()


@pytest.fixture(params=ROADS, ids=lambda road: road.name)
def road(request: pytest.FixtureRequest) -> Road:
    chosen: Road = request.param
    return chosen
