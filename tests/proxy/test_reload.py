"""Reload: another policy for a sandbox that runs, taken whole or not at all."""

from __future__ import annotations

from typing import Any

import pytest

from nsharness.linux import fds
from nsharness.policy.model import Policy
from tests.proxy.rig import Proxy, Sandbox, policy, read_to_end, rule, tunnel
from tests.proxy.test_tunnel import hello
from tests.proxy.upstreams import Upstream


def swap(proxy: Proxy, sandbox: Sandbox, rules: Policy | dict[str, Any]) -> dict[str, Any]:
    value = rules.to_json() if isinstance(rules, Policy) else rules
    tag = f"t{len(proxy.events)}"
    proxy.send({"op": "policy", "sandbox": sandbox.id, "policy": value, "tag": tag})
    return proxy.wait_for(lambda event: event.get("reply_to") == tag)


@pytest.fixture
def attached(proxy: Proxy, sandbox: Sandbox, upstream: Upstream) -> Sandbox:
    proxy.attach(sandbox, policy(rule("one", "one.local"), upstreams={"one.local:80": upstream.port}))
    return sandbox


def test_the_new_policy_decides_from_then_on(proxy: Proxy, attached: Sandbox, upstream: Upstream) -> None:
    assert attached.get("http://two.local/").status == 403
    rules = policy(rule("two", "two.local"), upstreams={"two.local:80": upstream.port})
    assert swap(proxy, attached, rules)["event"] == "policy"
    assert attached.get("http://two.local/").status == 200
    assert attached.get("http://one.local/").status == 403


@pytest.mark.parametrize(
    "broken",
    [{}, {"profile": "x"}, {**policy().to_json(), "more": 1}, policy(proxy_auth="bearer").to_json()],
    ids=["empty", "incomplete", "unknown key", "other identity"],
)
def test_a_bad_one_is_refused_and_the_old_one_stays(
    proxy: Proxy, attached: Sandbox, broken: dict[str, Any]
) -> None:
    reply = swap(proxy, attached, broken)
    assert reply["event"] == "error"
    assert reply["why"]
    assert attached.get("http://one.local/").status == 200


def test_an_unknown_sandbox_has_no_policy(proxy: Proxy, attached: Sandbox) -> None:
    proxy.send({"op": "policy", "sandbox": "none", "policy": policy().to_json(), "tag": "none"})
    assert proxy.wait_for(lambda event: event.get("reply_to") == "none")["event"] == "error"


def test_tunnels_that_are_no_longer_allowed_end(proxy: Proxy, sandbox: Sandbox, upstream: Upstream) -> None:
    rules = policy(rule("open", "open.local"), upstreams={"open.local:443": upstream.port})
    proxy.attach(sandbox, rules)
    with sandbox.connect() as client:
        tunnel(client, "open.local:443")
        client.sendall(hello("open.local"))
        proxy.audit("allow", sandbox=sandbox.id)
        assert swap(proxy, sandbox, rules)["event"] == "policy"
        client.settimeout(0.2)
        with pytest.raises(TimeoutError):
            client.recv(1)
        client.settimeout(10)
        swap(proxy, sandbox, policy())
        assert read_to_end(client) == b""


def test_hosts_that_the_authority_is_not_for_are_refused_and_named(
    proxy: Proxy, sandbox: Sandbox, upstream: Upstream
) -> None:
    """A tunnel needs no certificate of ours, an intercepted host does. Nothing of the rest is taken."""
    upstreams = {"one.local:80": upstream.port}
    first = policy(rule("one", "one.local"), upstreams=upstreams)
    key = fds.memfd("key")
    proxy.send({"op": "authority", "name": sandbox.id, "policy": first.to_json()}, (key,))
    fds.close_all([key])
    proxy.attach(sandbox, first, authority=sandbox.id)
    later = (
        rule("two", "two.local"),
        rule("three", "three.local", "*.three.local", paths=["/a"]),
        rule("cdn", "d111.cloudfront.net"),
    )
    reply = swap(proxy, sandbox, policy(*later))
    assert reply["event"] == "error"
    assert "three.local, *.three.local, d111.cloudfront.net:" in reply["why"]
    assert "restart" in reply["why"]
    assert "two.local" not in reply["why"]
    assert sandbox.get("http://one.local/").status == 200
    assert swap(proxy, sandbox, policy(later[0], upstreams=upstreams))["event"] == "policy"
    assert sandbox.get("http://one.local/").status == 403
