"""What the proxy knows of one sandbox. A listener holds its sandbox by reference: there is no look-up
by an identifier that a client could send, and nothing is shared between two sandboxes but the code.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Final

from nsharness.audit.event import Action, AuditEvent, Road
from nsharness.credentials.map import CredentialMap
from nsharness.credentials.scrub import Scrubber
from nsharness.credentials.secret import Secret
from nsharness.policy.asking import askable_host
from nsharness.policy.decide import Deny, decide_host
from nsharness.policy.hosts import HostError, canonical_host, is_ip
from nsharness.policy.limits import Usage
from nsharness.policy.model import Policy
from nsharness.policy.names import NamesError, NameTable
from nsharness.policy.remembering import LONGEST, MOST
from nsharness_proxy.asking import Questions
from nsharness_proxy.placeholders import Placeholders
from nsharness_proxy.tls import ClientSide, HostSide

_CHOSEN: Final = ("method", "host", "path")

_numbers = itertools.count(1)


@dataclass(slots=True, eq=False, kw_only=True)
class Sandbox:
    """One sandbox: its policy, its credentials, its names, and where its decisions are recorded."""

    id: str
    policy: Policy
    credentials: CredentialMap
    client_tls: ClientSide
    client_tls_http1: ClientSide
    """The same for clients that are not offered HTTP/2."""
    host_tls: HostSide
    write: Callable[[AuditEvent], None]
    """Keeps an event for good; raises ``OSError`` when it cannot."""
    names: NameTable = field(default_factory=NameTable)
    bearer: Secret | None = None
    scrubber: Scrubber | None = None
    """Finds the secrets of the credentials; None where there are none."""
    placeholders: Placeholders = field(default_factory=Placeholders)
    usage: dict[str, Usage] = field(default_factory=dict)
    """How much of each rule, by its name, was used."""
    _harmless: set[str] = field(default_factory=set)
    """Hosts and methods that have no secret in them."""
    questions: Questions = field(default_factory=lambda: Questions(lambda _: None))
    """What waits for a person's answer."""
    on_names: Callable[[NameTable], None] = lambda _: None
    """Called when a name got an address, so that a later proxy can be told to give it the same one."""

    def __post_init__(self) -> None:
        if (self.policy.proxy_auth == "bearer") != (self.bearer is not None):
            raise ValueError("a bearer is needed exactly where the policy asks for one")
        # In the order of the profile, so that another proxy with the same policy issues the same addresses.
        for rule in self.policy.rules:
            for pattern in rule.hosts:
                if not pattern.subdomains and not is_ip(pattern.base):
                    self.names.address_of(pattern.base)

    @property
    def listener_identifies(self) -> bool:
        """Whether arriving at a listener of this sandbox is proof enough of being it."""
        return self.policy.proxy_auth == "listener"

    def record(self, action: Action, road: Road, **facts: Any) -> None:
        """Write an audit event of this moment. What a client chose of it may have a secret in it."""
        if self.scrubber is not None:
            for name in _CHOSEN:
                text = facts.get(name)
                if text and text not in self._harmless:
                    facts[name] = clean = self.scrubber.text(text)
                    if name != "path" and clean == text and self._may_keep(text):
                        self._harmless.add(text)
        self.write(AuditEvent(time.monotonic_ns(), _moment(time.time_ns()), self.id, action, road, **facts))

    def _may_keep(self, text: str) -> bool:
        return len(self._harmless) < MOST and len(text) <= LONGEST

    def resolve(self, name: str) -> str | None:
        """The synthetic address of a name that policy allows; None, recorded, for any other."""
        try:
            host = canonical_host(name)
        except HostError:
            self.record("deny", "dns", host=name, reason="malformed-name")
            return None
        if is_ip(host):
            return None
        decision = decide_host(self.policy, host)
        # A name that a person may be asked about has an address, so that there can be a request to ask about.
        if isinstance(decision, Deny) and not askable_host(self.policy, host):
            self.record("deny", "dns", host=host, rule=decision.rule, reason=decision.reason)
            return None
        known = len(self.names)
        try:
            address = self.names.address_of(host)
        except NamesError:
            rule = decision.rule if isinstance(decision, Deny) else decision.rule.name
            self.record("deny", "dns", host=host, rule=rule, reason="too-many-names")
            return None
        if len(self.names) != known:
            self.on_names(self.names)
        return address

    def admits(self, authorization: str | None) -> bool:
        """Whether a Proxy-Authorization header proves the bearer: Basic, with it as the user name and no
        password (RFC 7617). Compared in constant time. Without a bearer everybody is admitted."""
        if self.bearer is None:
            return True
        scheme, _, encoded = (authorization or "").partition(" ")
        try:
            given = base64.b64decode(encoded.strip(), validate=True)
        except (binascii.Error, ValueError):
            given = b""
        expected = self.bearer.reveal().encode() + b":"
        return hmac.compare_digest(given, expected) and scheme.lower() == "basic"


def _moment(nanoseconds: int) -> str:
    """A time since the epoch in UTC, to the millisecond (RFC 3339)."""
    seconds, rest = divmod(nanoseconds, 10**9)
    return f"{_second(seconds)}.{rest // 10**6:03d}Z"


@lru_cache(maxsize=1)
def _second(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))


def next_number() -> int:
    """A number for a request, unique within this process."""
    return next(_numbers)
