"""May this request pass, by which rule, and with which headers injected: one pure function.

Default deny. A rule with ``deny`` wins wherever it stands; of the others the first that matches wins. A
denial says how close the request came and what a person could add to the profile, so that the answer to
it can teach: the same value is printed by the command line, answered by the proxy and written to the
audit log.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, cast

from nsharness.policy.conditions import Miss, match, port_allowed, port_hint
from nsharness.policy.guards import credential_in_query
from nsharness.policy.hosts import HostPattern
from nsharness.policy.model import Policy, Rule, is_local
from nsharness.policy.request import RequestView
from nsharness.policy.units import size_text

DenyReason = Literal[
    "host-not-allowed",
    "port-not-allowed",
    "path-not-allowed",
    "method-not-allowed",
    "denied-by-rule",
    "outside-only",
    "plain-http",
    "method-override",
    "query-credential",
    "body-too-large",
    "rate-exceeded",
    "requests-exhausted",
]

_STATUS: dict[DenyReason, int] = {"body-too-large": 413, "rate-exceeded": 429, "requests-exhausted": 429}


@dataclass(frozen=True, slots=True)
class Allow:
    """The request may pass by ``rule``, whose ``pattern`` matched its host.

    ``inject`` are the names of the headers to inject; their values stand in the credential map
    under ``str(pattern)`` and the name. Empty for a decision about a host alone. ``credentialed`` says
    that some rule gives the host a credential, so that the client's own are not for it.
    """

    rule: Rule
    pattern: HostPattern
    inject: tuple[str, ...] = ()
    credentialed: bool = False


@dataclass(frozen=True, slots=True)
class Deny:
    """The request may not pass. ``rule`` is the name of the rule that denied it or came closest, None where
    no rule names the host; ``hint`` says what a person could add to the profile."""

    reason: DenyReason
    rule: str | None
    hint: str

    @property
    def status(self) -> int:
        """The HTTP status to answer with."""
        return _STATUS.get(self.reason, 403)


def decide(policy: Policy, request: RequestView) -> Allow | Deny:
    """The decision on one request. Host and path of the view are canonical, which its type ensures.

    Limits that need counting, ``rate`` and ``max_requests``, are for ``limits.admit`` to apply to the
    rule of what is allowed here.

    Both are immutable, so it is made once and remembered with the request: whoever decides on the same once
    more, as each proof does, gets the same.
    """
    known = request.decided
    if known is not None and known[0] is policy:
        return cast("Allow | Deny", known[1])
    decision = _decide(policy, request)
    object.__setattr__(request, "decided", (policy, decision))
    return decision


def _decide(policy: Policy, request: RequestView) -> Allow | Deny:
    for rule in denials(policy):
        if not isinstance(match(policy, rule, request), Miss):
            return _denied(rule)
    if policy.only is not None and all(isinstance(match(policy, o, request), Miss) for o in policy.only):
        return _outside()
    closest: tuple[Miss, Rule] | None = None
    for rule in allowances(policy):
        found = match(policy, rule, request)
        if not isinstance(found, Miss):
            return _allowed(policy, rule, found, request)
        # The rule that failed latest in the order host, port, path, method is the one that was meant.
        if found.condition != "host" and (closest is None or found.rank > closest[0].rank):
            closest = found, rule
    return _missed(*closest) if closest else _unknown_host(request.host)


def decide_host(policy: Policy, host: str, port: int | None = None) -> Allow | Deny:
    """The decision on a canonical host before there is a request: for DNS (no port), CONNECT and SNI.

    Allow means that some request to it may pass, and carries no headers. Whether it must be inspected
    to be decided on is what ``route`` tells.
    """
    for rule in denials(policy):
        whole = rule.methods is None and rule.paths is None and rule.pattern_for(host) is not None
        if whole and (rule.ports is None or port in rule.ports):
            return _denied(rule)
    if policy.only is not None and not any(_means(policy, rule, host, port) for rule in policy.only):
        return _outside()
    missed: Deny | None = None
    for rule in allowances(policy):
        pattern = rule.pattern_for(host)
        if pattern is None:
            continue
        if port is None or port_allowed(policy, rule, host, port, None):
            return Allow(rule, pattern, credentialed=policy.credentialed(host))
        missed = missed or Deny("port-not-allowed", rule.name, port_hint(rule, port))
    return missed or _unknown_host(host)


def _means(policy: Policy, rule: Rule, host: str, port: int | None) -> bool:
    named = rule.pattern_for(host) is not None
    return named and (port is None or port_allowed(policy, rule, host, port, None))


def denials(policy: Policy) -> Iterator[Rule]:
    """The rules that forbid, in the order of the profile."""
    return (rule for rule in policy.rules if rule.deny)


def allowances(policy: Policy) -> Iterator[Rule]:
    """The rules that allow, in the order of the profile."""
    return (rule for rule in policy.rules if not rule.deny)


def _allowed(policy: Policy, rule: Rule, pattern: HostPattern, request: RequestView) -> Allow | Deny:
    """What a request must fulfil beyond the rule's conditions: where there are credentials of ours, nothing
    may carry them off, change what was decided on, or bring the client's own."""
    credentialed = policy.credentialed(request.host)
    if credentialed and request.method == "TRACE":
        # Its answer is the request (RFC 9110 section 9.3.8), the injected header with it.
        return Deny("method-not-allowed", rule.name, "TRACE is never sent to a host with a credential")
    if request.scheme == "http" and not _plain_allowed(policy, rule, request):
        hint = f"rule {rule.name} has a credential: use https, or map {request.host} in upstreams"
        return Deny("plain-http", rule.name, hint)
    if credentialed and (name := request.header_facts.override) is not None:
        hint = f"header {name} asks for another request than was decided on: send that one"
        return Deny("method-override", rule.name, hint)
    if credentialed and rule.exclusive and (name := credential_in_query(request.query)) is not None:
        hint = f"parameter {name} is a credential of the client's own: leave it out, or set exclusive = false"
        return Deny("query-credential", rule.name, f"{hint} in rule {rule.name}")
    too_large = body_denied(rule, request.header_facts.length)
    return too_large or Allow(rule, pattern, rule.header_names, credentialed)


def body_denied(rule: Rule, size: int) -> Deny | None:
    """The denial of a request body of so many bytes. For ``max_body`` where no length was announced: ask
    before each chunk is passed on, with the bytes until its end."""
    if rule.max_body is None or size <= rule.max_body:
        return None
    hint = f"rule {rule.name} allows bodies up to {size_text(rule.max_body)}: raise its max_body"
    return Deny("body-too-large", rule.name, hint)


def _plain_allowed(policy: Policy, rule: Rule, request: RequestView) -> bool:
    """A credential goes over TLS, or to an upstream that the profile maps to a local address. A
    certificate has no other place than TLS."""
    if not rule.credentialed:
        return True
    upstream = policy.upstream(request.host, request.port)
    return upstream is not None and is_local(upstream[0]) and not rule.client_certificate


def _missed(miss: Miss, rule: Rule) -> Deny:
    reasons: dict[str, DenyReason] = {
        "port": "port-not-allowed",
        "path": "path-not-allowed",
        "method": "method-not-allowed",
    }
    return Deny(reasons[miss.condition], rule.name, miss.hint)


def _denied(rule: Rule) -> Deny:
    return Deny("denied-by-rule", rule.name, f"rule {rule.name} denies it, whatever other rules allow")


def _outside() -> Deny:
    return Deny("outside-only", None, "the profile has `only` entries, and this is none of what they name")


def _unknown_host(host: str) -> Deny:
    return Deny("host-not-allowed", None, f"add a rule with hosts = [{host!r}] to the profile")
