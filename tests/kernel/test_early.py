"""A run that can reach nothing starts without its proxy, and reaches nothing."""

from __future__ import annotations

import os
import shlex
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest

from nsharness.linux.identity import current
from nsharness.policy.plain import PlainProfile
from nsharness.policy.profile import Profile
from nsharness.supervisor.channel import Message
from nsharness.supervisor.credentials import resolve
from nsharness.supervisor.early import Early
from nsharness.supervisor.proxy import NamespaceProxy
from nsharness.supervisor.sandbox import NamespaceSandbox
from nsharness.supervisor.session import Session
from tests.support.processes import alive
from tests.support.sandboxes import needs_sandbox
from tests.support.waiting import eventually

pytestmark = needs_sandbox

_ASK = ["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "--max-time", "60", "http://known.example/"]


@pytest.fixture(autouse=True)
def state(short_tmp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(short_tmp))


@pytest.fixture
def early() -> Iterator[Early]:
    with Early() as early:
        early.start_proxy()
        yield early


def test_a_sandbox_runs_while_its_proxy_does_nothing(early: Early) -> None:
    """Its proxy is stopped, as one that is slow to import would be. What was asked meanwhile is answered when
    it goes on, and denied."""
    profile, identity = PlainProfile("exec"), current()
    denials: list[Message] = []
    proxy_pid = early._started["proxy"].child.pid
    os.kill(proxy_pid, signal.SIGSTOP)
    with (
        resolve(profile, identity, early=early) as credentials,
        Session(profile.name, identity=identity, early=early) as session,
        NamespaceProxy(session, profile, credentials, on_denial=denials.append) as proxy,
        NamespaceSandbox(session, profile, proxy) as box,
    ):
        assert proxy.pid == proxy_pid
        assert box.run(["true"]).exit_code == 0
        trusted = box.run(["sh", "-c", "echo $SSL_CERT_FILE; ls /etc/nsharness/ca.pem"])
        assert trusted.stdout == b"\n"
        os.kill(proxy_pid, signal.SIGCONT)
        assert box.run(_ASK).stdout == b"403"
        session.hub.flush()
        assert [denied["host"] for denied in denials] == ["known.example"]
    assert not alive(proxy_pid)


def test_a_proxy_may_be_started_when_its_sandbox_runs_already() -> None:
    profile, identity = PlainProfile("exec"), current()
    denials: list[Message] = []
    with (
        resolve(profile, identity) as credentials,
        Session(profile.name, identity=identity) as session,
        NamespaceProxy(session, profile, credentials, on_denial=denials.append, late=True) as proxy,
        NamespaceSandbox(session, profile, proxy) as box,
    ):
        asking = box.shell.run(f"{shlex.join(_ASK)} > /tmp/answer & echo $!")
        assert box.run(["cat", "/tmp/answer"]).stdout == b""
        for _ in range(2):
            proxy.start()
        assert asking.exit_code == 0
        assert eventually(lambda: box.run(["cat", "/tmp/answer"]).stdout) == b"403"
        session.hub.flush()
        assert [denied["host"] for denied in denials] == ["known.example"]


@pytest.mark.parametrize("place", ["channel.Channel.__init__", "proxy.NamespaceProxy._launch"])
def test_who_is_interrupted_while_the_proxy_is_started_leaves_nothing(
    place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A signal comes when it likes: here it once left an error in place of the exit code."""
    profile, identity = PlainProfile("exec"), current()
    helpers: list[int] = []

    def interrupted(*_: object) -> NoReturn:
        raise KeyboardInterrupt

    def run() -> None:
        with Early() as early:
            early.start_proxy()
            helpers.extend(each.child.pid for each in early._started.values())
            with (
                resolve(profile, identity, early=early) as credentials,
                Session(profile.name, identity=identity, early=early) as session,
                NamespaceProxy(session, profile, credentials, late=True) as proxy,
                NamespaceSandbox(session, profile, proxy),
            ):
                monkeypatch.setattr(f"nsharness.supervisor.{place}", interrupted)
                proxy.start()

    with pytest.raises(KeyboardInterrupt):
        run()
    assert len(helpers) == 2
    assert not any(map(alive, helpers))


def test_a_sandbox_that_trusts_its_proxy_has_it_from_the_start() -> None:
    rule = {"name": "known", "hosts": ["known.example"]}
    profile, identity = Profile.model_validate({"name": "p", "sandbox_proxy_rules": [rule]}), current()
    with (
        resolve(profile, identity) as credentials,
        Session(profile.name, identity=identity) as session,
        NamespaceProxy(session, profile, credentials, late=True) as proxy,
    ):
        assert alive(proxy.pid)
        assert "CERTIFICATE" in proxy.ca_pem()


def test_the_end_of_a_run_does_not_wait_for_a_proxy_that_has_served_nobody(early: Early) -> None:
    profile, identity = PlainProfile("exec"), current()
    proxy_pid = early._started["proxy"].child.pid
    os.kill(proxy_pid, signal.SIGSTOP)
    with (
        resolve(profile, identity, early=early) as credentials,
        Session(profile.name, identity=identity, early=early) as session,
        NamespaceProxy(session, profile, credentials),
    ):
        pass
    assert not alive(proxy_pid)


def test_a_proxy_that_never_comes_leaves_a_sandbox_that_reaches_nothing(early: Early) -> None:
    profile, identity = PlainProfile("exec"), current()
    os.kill(early._started["proxy"].child.pid, signal.SIGSTOP)
    with (
        resolve(profile, identity, early=early) as credentials,
        Session(profile.name, identity=identity, early=early) as session,
        NamespaceProxy(session, profile, credentials) as proxy,
        NamespaceSandbox(session, profile, proxy) as box,
    ):
        assert not proxy.given_up
        os.kill(proxy.pid, signal.SIGKILL)
        assert eventually(lambda: proxy.given_up)
        assert box.run(["true"]).exit_code == 0
        refused = 7  # EXIT CODES in curl(1)
        assert box.run([*_ASK[:-1], "http://192.0.2.1/"]).exit_code == refused


def test_helpers_that_nobody_takes_end_with_the_block() -> None:
    with Early() as early:
        early.start_proxy()
        pids = [started.child.pid for started in early._started.values()]
        assert len(pids) == 2
    assert eventually(lambda: not any(map(alive, pids)))


def test_the_proxy_is_started_once_and_for_whoever_wants_it() -> None:
    with Early() as early:
        assert early.take("proxy") is None
        assert early.take_map() is None
        early.start_proxy()
        early.start_proxy()
        started = early.take("proxy")
        assert started is not None
        started.close()
        descriptor = early.take_map()
        assert descriptor is not None
        os.close(descriptor)
