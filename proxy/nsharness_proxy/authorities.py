"""The authorities of all sandboxes: each has its own, which its supervisor asks for before it starts.

``{"op": "authority", "name", "policy"}`` carries a memfd: empty when the authority is to be made, which is
sealed into it then, and full when a proxy takes over from one that died. The answer is
``{"event": "ca", "name", "pem"}``, with ``client``, a certificate and its key as PEM, where the policy says
that the sandbox identifies itself by one. The authority is for the hosts of the policy as it is then, and for
no other that the policy may be given later.
"""

from __future__ import annotations

from typing import Any

from nsharness.linux import fds
from nsharness.policy.model import Policy
from nsharness_proxy.ca import CertificateAuthority, hosts_of
from nsharness_proxy.report import Emit, Report


class Authorities:
    """Authorities by name: the sandbox's, unless its ``attach`` message names another."""

    def __init__(self, emit: Emit, report: Report) -> None:
        self._emit = emit
        self._report = report
        self._known: dict[str, CertificateAuthority] = {}
        self.want_mitmproxy = False
        """Whether a policy that is known already is to be served by it."""

    def add(self, message: dict[str, Any], descriptors: list[int]) -> None:
        """Do what an ``authority`` message says; ``ValueError`` if it is malformed. The descriptors stay the
        caller's. A policy that is null asks for an authority for any host."""
        if set(message) - {"tag"} != {"op", "name", "policy"} or len(descriptors) != 1:
            raise ValueError("an authority has a name, a policy and one descriptor")
        name = message["name"]
        if not isinstance(name, str) or name in self._known:
            raise ValueError("an authority has a name of its own")
        policy = None if message["policy"] is None else Policy.from_json(message["policy"])
        content = fds.read_all(descriptors[0])
        if content:
            authority = CertificateAuthority.from_pem(content)
        else:
            hosts = None if policy is None else hosts_of(policy)
            if hosts is None and policy is not None:
                asks = policy.unknown == "ask"
                why = "unknown hosts are asked about" if asks else "a rule allows any"
                text = f"the authority of {name} can certify any host, because {why}"
                self._report.log("warning", text)
            authority = CertificateAuthority.create(hosts)
            fds.write_all(descriptors[0], authority.to_pem())
            fds.seal(descriptors[0])
        self._known[name] = authority
        if policy is not None and policy.served_by == "mitmproxy":
            self.want_mitmproxy = True
        event: dict[str, Any] = {"event": "ca", "name": name, "pem": authority.certificate_pem}
        if policy is not None and policy.proxy_auth == "mtls":
            # Also of an authority that goes on: nobody knows whether the first was heard of. All are good.
            event["client"] = authority.client(name)
        self._emit(event)

    def named(self, name: str) -> CertificateAuthority:
        """The authority of that name; ``ValueError`` if nobody asked for it."""
        if name not in self._known:
            raise ValueError(f"there is no authority called {name!a}")
        return self._known[name]

    def forget(self, name: str) -> None:
        """Let go of an authority and its key, if there is one."""
        self._known.pop(name, None)
