"""No probe, no run: a sandbox is served only after the proxy has refused a request that nobody may make."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from typing import Any

import pytest

from nsharness.credentials.secret import Secret
from nsharness.policy.model import Policy
from nsharness_proxy import probe
from nsharness_proxy.ca import CertificateAuthority
from nsharness_proxy.judge import Judge
from nsharness_proxy.mitm import Mitm
from nsharness_proxy.refusal import Refused
from nsharness_proxy.report import Report
from nsharness_proxy.sandbox import Sandbox
from nsharness_proxy.tls import PROTOCOL, ClientSide, HostSide
from tests.proxy.rig import DEADLINE, Proxy, credential_map, policy, rule
from tests.proxy.rig import Sandbox as Served


def sandbox(rules: Policy, bearer: str | None = None) -> Sandbox:
    def write(event: Any) -> None:
        raise AssertionError("the probe is not recorded")

    return Sandbox(
        id="probed",
        policy=rules,
        credentials=credential_map({}),
        client_tls=ClientSide(CertificateAuthority.create()),
        client_tls_http1=ClientSide(CertificateAuthority.create(), (PROTOCOL,)),
        host_tls=HostSide(),
        write=write,
        bearer=None if bearer is None else Secret(bearer),
    )


def see_denial(engine: str, rules: Policy, bearer: str | None = None) -> list[dict[str, Any]]:
    reported: list[dict[str, Any]] = []
    report = Report(reported.append)
    serve = probe.serve_mitm(Mitm(report)) if engine == "mitmproxy" else probe.serve_fast(report)
    asyncio.run(probe.see_denial(sandbox(rules, bearer), serve))
    return reported


@pytest.mark.parametrize("engine", ["mitmproxy", "fast"])
def test_a_judge_that_refuses_is_seen_to(engine: str) -> None:
    assert not see_denial(engine, policy(rule("wiki", "wiki.local")))
    assert not see_denial(engine, policy(proxy_auth="bearer"), "bearer-0123456789")


@pytest.mark.parametrize("fault", ["lets pass", "crashes", "is silent"])
@pytest.mark.parametrize("engine", ["mitmproxy", "fast"])
def test_a_judge_that_does_not_is_found_out(monkeypatch: pytest.MonkeyPatch, engine: str, fault: str) -> None:
    def broken(self: Judge, asked: Any) -> Any:
        if fault == "lets pass":
            self.approved.add(("other.invalid", 80))
        elif fault == "crashes":
            raise RuntimeError
        return Refused(403, "silent")

    monkeypatch.setattr(Judge, "decide", broken)
    with pytest.raises(probe.ProbeError):
        see_denial(engine, policy())


def test_nothing_of_it_is_in_the_log(proxy: Proxy, new_sandbox: Any) -> None:
    served: Served = new_sandbox()
    proxy.attach(served, policy())
    assert served.log() == []


_ROAD = """
import os, sys
from nsharness.linux import userns
from nsharness.sandbox import gateway, road, rtnetlink
if os.geteuid() == 0:
    os.unshare(os.CLONE_NEWNET)
else:
    userns.enter_new(os.CLONE_NEWNET)
made = gateway.create()
where, extra = sys.argv[1:]
os.setns({"sandbox": made.sandbox_netns, "gateway": made.gateway_netns}.get(where, made.sandbox_netns), 0)
if where == "nowhere":
    os.unshare(os.CLONE_NEWNET)
if extra == "route":
    with gateway._netlink() as link:
        route = rtnetlink.route("0.0.0.0", 0, gateway="10.127.0.1", table=100)
        asked = gateway.Datagram(rtnetlink.datagram([route]), ("rtmsg",))
        gateway._transact(link, asked, "a second default route")
if extra == "listener":
    os.setns(made.gateway_netns, 0)
    listening = gateway._listen(1, 1)
    os.setns(made.sandbox_netns, 0)
try:
    road.check()
except OSError as error:
    print(error.strerror)
else:
    print("one road")
"""


@pytest.mark.kernel("userns", "veth")
@pytest.mark.parametrize(
    ("where", "extra", "expected"),
    [
        ("sandbox", "", "one road"),
        ("gateway", "", "interfaces"),
        ("nowhere", "", "interfaces"),
        ("sandbox", "route", "one default route"),
        ("sandbox", "listener", "nobody listens for"),
    ],
)
def test_a_sandbox_sees_exactly_one_road(where: str, extra: str, expected: str) -> None:
    command = [sys.executable, "-c", _ROAD, where, extra]
    done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE)
    assert expected in done.stdout, done.stderr
