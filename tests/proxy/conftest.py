"""A running proxy for all tests of a worker, a sandbox of its own for each, and a host to talk to."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.proxy.rig import Proxy, Sandbox, credential_map, new_token
from tests.proxy.upstreams import Upstream

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def token() -> str:
    return new_token()


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    with Upstream() as server:
        yield server


@pytest.fixture(scope="session")
def running_proxy(token: str) -> Iterator[Proxy]:
    """Holds ``token`` for the Authorization header of wiki.local and of secure.local."""
    header = {"Authorization": f"Bearer {token}"}
    with Proxy(credential_map({"wiki.local": header, "secure.local": header})) as process:
        process.event("ready")
        assert process.ca
        yield process


@pytest.fixture
def proxy(running_proxy: Proxy) -> Iterator[Proxy]:
    """The same process, with the events of this test only, and every sandbox detached after it."""
    running_proxy.events.clear()
    yield running_proxy
    for event in [event for event in running_proxy.events if event["event"] == "attached"]:
        running_proxy.send({"op": "detach", "sandbox": event["sandbox"]})
        running_proxy.event("detached", sandbox=event["sandbox"])
    assert running_proxy.process.poll() is None
    failures = [event for event in running_proxy.events if event["event"] in ("log", "fatal")]
    assert not failures


@pytest.fixture
def new_sandbox(tmp_path: Path) -> Iterator[Callable[[], Sandbox]]:
    """Makes sandboxes that listen on loopback."""
    made: list[Sandbox] = []

    def make() -> Sandbox:
        made.append(Sandbox.on_loopback(f"s{next(_numbers)}", tmp_path))
        return made[-1]

    yield make
    for sandbox in made:
        sandbox.close()


@pytest.fixture
def sandbox(new_sandbox: Callable[[], Sandbox]) -> Sandbox:
    return new_sandbox()
