"""Whether a sandbox needs an authority to trust. Pure, and without the model of a policy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def certifies(policy: Mapping[str, Any]) -> bool:
    """Whether there is a host, or the proxy itself, for which the proxy of this policy, given as JSON, could
    have to make a certificate. Otherwise its authority is for no host at all: whoever trusts it trusts
    nothing more."""
    allows = any(not rule["deny"] for rule in policy["rules"])
    return allows or policy["unknown"] == "ask" or policy["proxy_auth"] == "mtls"
