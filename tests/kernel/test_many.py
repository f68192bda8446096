"""Many sandboxes of one supervisor: what they need, and that nothing of those that ended stays."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from nsharness.plan.trust import CA_BUNDLE
from nsharness.policy.profile import Profile
from nsharness.supervisor.credentials import resolve
from nsharness.supervisor.proxy import NamespaceProxy
from nsharness.supervisor.sandbox import NamespaceSandbox
from nsharness.supervisor.session import Session
from tests.support.sandboxes import needs_sandbox, opened_box, opened_session
from tests.support.waiting import DEADLINE, eventually

pytestmark = needs_sandbox

_CROWDED = """
import os, resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (300, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
sys.path.insert(0, sys.argv[2])
from pathlib import Path
from tests.support.sandboxes import opened_box, opened_session
with opened_session(Path(sys.argv[1])) as session:
    taken = [os.open("/dev/null", os.O_RDONLY) for _ in range(1100)]
    with opened_box(session) as box:
        print(box.out("ulimit -Sn"), box.shell.run("ulimit -Sn").stdout.strip())
    print(resource.prlimit(session.zygote.pid, resource.RLIMIT_NOFILE)[0] > 300)
"""


def test_a_supervisor_has_more_descriptors_than_a_workload(tmp_path: Path) -> None:
    # In a program of its own, as one that comes with a low limit and has used up all below 1024.
    argv = [sys.executable, "-c", _CROWDED, str(tmp_path), str(Path(__file__).parents[2])]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=DEADLINE * 2)
    assert done.stdout.split() == ["300", "300", "True"], done.stderr


class Numbered(NamespaceSandbox):
    """One of several at the same proxy."""

    def __init__(self, session: Session, profile: Profile, proxy: NamespaceProxy, number: int) -> None:
        super().__init__(session, profile, proxy)
        self._number = number

    @property
    def id(self) -> str:
        return f"{super().id}-{self._number}"


@pytest.fixture
def proxied(tmp_path: Path) -> Iterator[tuple[Session, Profile, NamespaceProxy]]:
    rule = {"name": "known", "hosts": ["known.example"]}
    profile = Profile.model_validate({"name": "many", "sandbox_proxy_rules": [rule]})
    with (
        opened_session(tmp_path) as session,
        resolve(profile, session.identity) as credentials,
        NamespaceProxy(session, profile, credentials) as proxy,
    ):
        proxy.wait_ready()
        yield session, profile, proxy


def test_one_proxy_serves_each_of_many_sandboxes_by_its_own_certificate(
    proxied: tuple[Session, Profile, NamespaceProxy],
) -> None:
    session, _, proxy = proxied
    with Numbered(*proxied, 1) as one, Numbered(*proxied, 2) as two:
        asked = ["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "http://denied.example/"]
        assert [box.run(asked).stdout for box in (one, two)] == [b"403", b"403"]
        assert proxy.ca_pem(one.id) != proxy.ca_pem(two.id)
    audit = (session.run.path / "audit.jsonl").read_text()
    assert all(f'"{box.id}"' in audit for box in (one, two))


def test_what_is_large_in_a_plan_is_kept_by_nobody(
    proxied: tuple[Session, Profile, NamespaceProxy],
) -> None:
    """Each sandbox has up to half a megabyte of certificates, and the collector may not come round for
    fifty of them."""
    with Numbered(*proxied, 1) as box:
        assert box.plan.steps
        assert len(box.plan.to_json()) < 50_000
        inside = box.run(["cat", CA_BUNDLE], limit=1 << 20).stdout
        assert inside.endswith(proxied[2].ca_pem(box.id).encode())
    assert not box.plan.steps
    assert box.plan.limits is not None


def _descriptors(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


@pytest.mark.root  # An undumpable process shows its descriptors to nobody else.
def test_sandboxes_that_came_and_went_leave_no_descriptor_anywhere(
    proxied: tuple[Session, Profile, NamespaceProxy],
) -> None:
    session, _, proxy = proxied
    pids = (os.getpid(), session.zygote.pid, proxy.pid)
    with Numbered(*proxied, 0) as kept:
        kept.run(["true"])
        # The proxy has taken over the sockets when it refuses what they bring.
        kept.run(["curl", "-s", "http://denied.example/"])
        before = [_descriptors(pid) for pid in pids]
        for number in range(1, 21):
            with Numbered(*proxied, number) as box:
                box.run(["true"])
        eventually(lambda: all(_descriptors(pid) <= then for pid, then in zip(pids, before, strict=True)))


def test_ended_sandboxes_free_the_zygotes_gateways(tmp_path: Path) -> None:
    with opened_session(tmp_path) as session:
        with opened_box(session):
            before = _descriptors(session.zygote.pid) - 2  # The two namespaces of this one.
        for _ in range(10):
            with opened_box(session):
                pass
        eventually(lambda: _descriptors(session.zygote.pid) <= before)
