"""Client certificates as identity are not there yet: a policy that asks for them is refused, not weakened."""

from __future__ import annotations

import pytest

from tests.proxy.rig import Proxy, Sandbox, policy


def test_a_sandbox_that_needs_certificates_is_not_served(running_proxy: Proxy, sandbox: Sandbox) -> None:
    running_proxy.events.clear()
    with pytest.raises(AssertionError):
        running_proxy.attach(sandbox, policy(proxy_auth="mtls"))
    assert "not available yet" in running_proxy.event("error", sandbox=sandbox.id)["why"]
