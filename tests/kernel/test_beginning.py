"""What plans of a session have in common is done before they are known: nobody can tell from inside."""

from __future__ import annotations

import contextlib
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nsharness.errors import NsharnessError
from nsharness.plan.steps import Bind, Directory, Plan
from nsharness.supervisor.session import Session
from nsharness.supervisor.zygote import GatewayHandle
from tests.support.processes import descendants
from tests.support.sandboxes import Box, Gateway, needs_sandbox, opened_box, opened_session
from tests.support.waiting import eventually

pytestmark = needs_sandbox

SEEN = """
sed 's/^[0-9]* [0-9]* [0-9]*:[0-9]* //' /proc/self/mountinfo | sort
find / -xdev ! -path '/proc*' ! -path '/sys*' -printf '%p %y %m %U %G %l\\n' | sort
cat /etc/passwd /etc/group /etc/resolv.conf /etc/nsswitch.conf
"""


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Session]:
    with opened_session(tmp_path) as opened:
        yield opened


@pytest.fixture
def source() -> Iterator[Path]:
    """A folder that the workload may look into."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "share").mkdir(mode=0o755)
        yield folder / "share"


class Early(Box):
    """A sandbox whose plan begins with a share, as no profile could say."""

    def __init__(self, session: Session, source: Path, **profile: Any) -> None:
        super().__init__(session, Gateway(), **profile)
        self._source = source

    def _compose(self, *arguments: Any) -> Plan:
        made = super()._compose(*arguments)
        share = (Directory("/early"), Bind(str(self._source), "/early"))
        return replace(made, steps=(*share, *made.steps))


def known(session: Session, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """With what the plans of the next sandboxes may begin, as they are made."""
    found: list[int] = []
    asking = session.zygote.ask_gateway

    def ask(**wanted: bool) -> Callable[[], GatewayHandle]:
        asked = asking(**wanted)

        def made() -> GatewayHandle:
            gateway = asked()
            found.append(gateway.beginning)
            return gateway

        return made

    monkeypatch.setattr(session.zygote, "ask_gateway", ask)
    return found


@pytest.mark.parametrize("size", [0, 1])
def test_a_sandbox_is_the_same_however_early_it_was_begun(
    session: Session, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    numbers = known(session, monkeypatch)
    seen = []
    for count in range(5):
        with opened_box(session) as box:
            seen.append(box.out(SEEN))
        if count == 2:
            session.zygote.pool(size)
    assert len(set(seen)) == 1
    # Two plans show what they have in common, so the third is the first that needs no more than its rest.
    assert numbers[:3] == [0, 0, 1]
    assert numbers[-1] == 1


def test_a_plan_that_begins_otherwise_is_carried_out_all_the_same(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers = known(session, monkeypatch)
    size = "stat -f -c '%b %s' /tmp"
    with opened_box(session) as one, opened_box(session) as two:
        assert one.out(size) == two.out(size)
    with opened_box(session, limits={"tmp": "8MiB"}) as small:
        blocks, unit = map(int, small.out(size).split())
    assert blocks * unit == 8 << 20
    assert numbers == [0, 0, 1]
    with opened_box(session) as again:
        assert again.out(size) == f"{(1 << 30) // unit} {unit}"


@contextmanager
def early(session: Session, source: Path) -> Iterator[Early]:
    box = Early(session, source)
    with box:
        yield box


def learned(session: Session, source: Path) -> None:
    for _ in range(2):
        with early(session, source):
            pass


def test_what_was_replaced_meanwhile_is_mounted_anew(session: Session, source: Path) -> None:
    """The process that has waited with the old one ends, and another begins."""
    (source / "name").write_text("old")
    learned(session, source)
    session.zygote.pool(1)
    with early(session, source) as box:
        assert box.out("cat /early/name") == "old"
    eventually(lambda: is_mounted_ahead(session))
    source.rename(source.with_name("elsewhere"))
    source.mkdir(mode=0o755)
    (source / "name").write_text("new")
    with early(session, source) as box:
        assert box.out("cat /early/name") == "new"


def is_mounted_ahead(session: Session) -> bool:
    """Whether one that waits for its plan has mounted the source."""
    for pid in descendants(session.zygote.pid):
        with contextlib.suppress(OSError):
            if "/early " in Path(f"/proc/{pid}/mountinfo").read_text():
                return True
    return False


def test_what_is_gone_meanwhile_is_named(session: Session, source: Path) -> None:
    learned(session, source)
    source.rmdir()
    with pytest.raises(NsharnessError, match="/early") as caught, early(session, source):
        pass
    assert "No such file" in caught.value.why
    with opened_box(session) as box:
        assert box.out("ls -d /early 2>/dev/null || echo absent") == "absent"


@pytest.mark.root
def test_what_the_host_mounts_meanwhile_is_nowhere_in_it(tmp_path: Path, source: Path) -> None:
    """A share is read-only with all that is mounted below it; what comes later would not be."""
    (source / "below").mkdir(mode=0o777)
    with mounted("--bind", str(source), str(source)):
        subprocess.run(["mount", "--make-shared", source], check=True)
        with opened_session(tmp_path) as session:
            learned(session, source)
            session.zygote.pool(1)
            with early(session, source):
                pass
            eventually(lambda: is_mounted_ahead(session))
            with (
                mounted("-t", "tmpfs", "-o", "mode=0777", "later", str(source / "below")),
                early(session, source) as box,
            ):
                assert box.out("touch /early/below/file 2>&1 || true").endswith("Read-only file system")
                assert box.out("grep -c ' /early' /proc/self/mountinfo") == "1"


@contextmanager
def mounted(*arguments: str) -> Iterator[None]:
    subprocess.run(["mount", *arguments], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", arguments[-1]], check=True)
