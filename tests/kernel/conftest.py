"""Real sandboxes for the tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from nsharness.supervisor.session import Session
from tests.support.sandboxes import Box, Gateway, opened_box, opened_session, warm


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    """A session that a module's tests share: its zygote serves all their sandboxes."""
    with opened_session(tmp_path_factory.mktemp("state")) as opened:
        yield warm(opened)


@pytest.fixture(scope="module")
def box(session: Session) -> Iterator[Box]:
    """A sandbox that a module's tests share: they leave it as they found it."""
    with opened_box(session) as opened:
        opened.shell.run(":")  # its shell is there from now on
        yield opened


@pytest.fixture
def fresh_box(session: Session) -> Iterator[Box]:
    """A sandbox of the test's own."""
    with opened_box(session) as opened:
        yield opened


@pytest.fixture
def gateway_probe(box: Box) -> Iterator[Gateway]:
    """What the gateway of ``box`` gets to see; nothing of it may be left unseen."""
    assert box.gateway.nothing_came()
    yield box.gateway
    assert box.gateway.nothing_came()


@pytest.fixture(params=[False, True], ids=["environment-given", "environment-cleared"])
def cleared(request: pytest.FixtureRequest) -> bool:
    """K11: whether the workload has thrown away its proxy variables."""
    return bool(request.param)


@pytest.fixture(scope="module")
def python(box: Box) -> str:
    """An interpreter that the sandbox itself has; the system calls that no shell makes need one."""
    for path in ("/usr/bin/python3", "/usr/local/bin/python3"):
        if box.run([path, "-c", "import ctypes, socket"]).exit_code == 0:
            return path
    pytest.skip("there is no python3 among the system's programs: no shell makes these calls")


@pytest.fixture
def short_state(short_tmp: Path) -> Path:
    """A folder for state whose sockets have short names."""
    return short_tmp
