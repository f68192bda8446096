"""What the header fields of a request come to, worked out once for as long as a client sends the same ones.

A client's requests mostly differ in their targets alone. What is remembered here is of one connection, and
of its last request; nothing of it depends on the target, on a count or on a time, and what depends on the
policy is forgotten with it.
"""

from __future__ import annotations

from typing import Final

from nsharness.policy import headers
from nsharness.policy.decide import Allow
from nsharness.policy.headers import Field
from nsharness.policy.model import Policy
from nsharness.policy.request import Headers, without_credentials
from nsharness_proxy.refusal import Refused
from nsharness_proxy.sandbox import Sandbox
from nsharness_proxy.sending import Outgoing, carries_secret, outgoing

LONGEST: Final = 4096
"""Bytes of header fields that are remembered at most: idle connections keep what was said last."""


class Told:
    """Of one list of fields."""

    __slots__ = ("_outgoing", "_sandbox", "brief", "fields", "refused", "texts", "upgrades")

    def __init__(self, sandbox: Sandbox, fields: tuple[Field, ...]) -> None:
        self._sandbox = sandbox
        self.fields: Final = fields
        self.brief: Final = sum(len(name) + len(value) for name, value in fields) <= LONGEST
        """Whether they may be remembered."""
        self.refused: Final = carries_secret(sandbox, (), fields)
        """The refusal, if there is a secret in them."""
        self.texts: Final[Headers] = without_credentials(
            (name.decode("ascii"), value.decode("utf-8", "surrogateescape")) for name, value in fields
        )
        """As decisions see them."""
        self.upgrades: Final = headers.is_websocket("GET", fields)
        """Whether a request with the method GET would ask for a WebSocket."""
        self._outgoing: tuple[Policy, Allow, str, bool, Outgoing | Refused] | None = None

    def outgoing(self, allow: Allow, host: str, *, websocket: bool) -> Outgoing | Refused:
        """See ``sending.outgoing``."""
        policy, known = self._sandbox.policy, self._outgoing
        # A rule that stays as it was, in another policy, may come to something else.
        if known is not None and known[0] is policy and known[1:4] == (allow, host, websocket):
            return known[4]
        made = outgoing(self._sandbox, allow, self.fields, host, websocket=websocket)
        self._outgoing = (policy, allow, host, websocket, made)
        return made
