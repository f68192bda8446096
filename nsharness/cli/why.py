"""``nsharness why``: explain a decision, offline, with the code that decides."""

from __future__ import annotations

import argparse
import json
import re
from dataclasses import dataclass
from typing import Any

from nsharness.cli.profiles import choose
from nsharness.errors import NsharnessError
from nsharness.policy.authority import Authority, Claims, Refusal, authority
from nsharness.policy.decide import Allow
from nsharness.policy.explain import Explanation, Step, explain
from nsharness.policy.headers import Field, HeaderError, outgoing, removed
from nsharness.policy.hosts import is_ip, join_authority, split_authority
from nsharness.policy.model import Policy
from nsharness.policy.request import DEFAULT_PORTS, RequestView, Scheme, view
from nsharness.policy.route import Intercept

# By hand, because urllib's parser repairs: it drops control characters that a request would have in it.
_URL = re.compile(r"(?is)(?P<scheme>https?)://(?P<authority>[^/?#]+)(?P<target>[^#]*)(?:#.*)?")
_INTERCEPTED = {
    "credential": "the host gets a credential",
    "conditions": "paths or methods are looked at",
    "limits": "requests are counted or measured",
    "inspect": "a rule has inspect = true",
    "shared-cdn": "its servers speak for others too",
    "no-sni": "an address cannot be named in TLS",
}


@dataclass(frozen=True, slots=True)
class _Asked:
    """The request that is asked about, taken apart."""

    request: RequestView
    fields: list[Field]


def why(options: argparse.Namespace) -> int:
    """Exit code 0 if the request would be allowed, 1 if not."""
    chosen = choose(options.profile, options.preset)
    policy = chosen.profile.to_policy()
    fields = [_field(text) for text in options.header]
    asked = _asked(options.method, options.url, fields)
    if isinstance(asked, Refusal):
        _print_refusal(asked, as_json=options.json)
        return 1
    told = explain(policy, asked.request)
    dropped = _removed(told, asked.fields)
    mapped = policy.upstream(asked.request.host, asked.request.port)
    if options.json:
        upstream = None if mapped is None else join_authority(*mapped)
        print(
            json.dumps(
                {
                    "request": _shown(asked.request),
                    **told.to_json(),
                    "removed": list(dropped),
                    "upstream": upstream,
                }
            )
        )
    else:
        at_run = join_authority(asked.request.host, asked.request.port) in chosen.at_run
        print("\n".join(_lines(policy, asked.request, told, dropped, at_run=at_run)))
    return 0 if isinstance(told.decision, Allow) else 1


def _asked(method: str, url: str, fields: list[Field]) -> _Asked | Refusal:
    """The request as the proxy would see it, or its refusal. A fragment stays with the client, as always."""
    parts = _URL.fullmatch(url)
    if parts is None:
        raise NsharnessError(f"URL {_quoted(url)}", why="it is none", hint="write http://… or https://…")
    scheme: Scheme = "https" if parts["scheme"].lower() == "https" else "http"
    target = parts["target"] if parts["target"].startswith("/") else "/" + parts["target"]
    try:
        host, given = split_authority(parts["authority"])
        port = given or DEFAULT_PORTS[scheme]
        agreed = authority(_claims(host, port, scheme, fields))
        if not isinstance(agreed, Authority):
            return agreed
        pairs = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in fields]
        return _Asked(view(method.upper(), scheme, host, port, target, pairs), fields)
    except ValueError as error:
        return Refusal(str(error), 400)


def _claims(host: str, port: int, scheme: Scheme, fields: list[Field]) -> Claims:
    """Everything agrees but what the Host headers say, if there are any."""
    here = join_authority(host, port)
    tls = scheme == "https"
    return Claims(
        "connect",
        connect_target=here,
        sni=host if tls and not is_ip(host) else None,
        host_headers=tuple(v.decode("latin-1") for n, v in fields if n.lower() == b"host") or (here,),
        tls=tls,
    )


def _removed(told: Explanation, fields: list[Field]) -> tuple[str, ...]:
    if not isinstance(told.decision, Allow):
        return ()
    try:
        return removed(fields, outgoing(fields, told.decision))
    except HeaderError as error:
        raise NsharnessError("headers", why=str(error)) from None


def _field(text: str) -> Field:
    name, colon, value = text.partition(":")
    if not colon:
        raise NsharnessError(f"header {_quoted(name)}", why="it has no colon", hint="write 'Name: value'")
    try:
        return name.encode("latin-1"), value.strip(" ").encode("latin-1")
    except UnicodeEncodeError:
        raise NsharnessError("header", why="it has characters that no header may have") from None


def _shown(request: RequestView) -> dict[str, Any]:
    return {
        "method": request.method,
        "scheme": request.scheme,
        "host": request.host,
        "port": request.port,
        "path": request.path,
    }


def _print_refusal(refusal: Refusal, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps({"allowed": False, "reason": refusal.reason, "status": refusal.status}))
    else:
        print(f"refused with {refusal.status} before any rule: {refusal.reason}")


def _lines(
    policy: Policy, request: RequestView, told: Explanation, dropped: tuple[str, ...], *, at_run: bool
) -> list[str]:
    here = join_authority(request.host, request.port)
    # The path as it is compared, which may be another spelling than the one that was asked about.
    lines = [f"{request.method} {request.scheme}://{here}{request.path}"]
    lines += [_step(step) for step in told.steps] or ["  the profile has no rules"]
    decision = told.decision
    if not isinstance(decision, Allow):
        if told.asked:
            seconds = f"denied without an answer in {policy.ask_seconds} s"
            return [*lines, f"waits for a person's answer, {seconds} ({decision.reason})"]
        return [*lines, f"denied ({decision.status}, {decision.reason}): {decision.hint}"]
    lines.append(f"allowed by rule {decision.rule.name}")
    if decision.inject:
        lines.append(f"  injected: {', '.join(decision.inject)}")
    if told.uninjected is not None:
        lines.append(f"  no credential ({told.uninjected.reason}): {told.uninjected.hint}")
    if decision.rule.secrets:
        places = ", ".join(sorted(decision.rule.placeholders))
        lines.append(f"  placeholders become secrets in {places}: {', '.join(decision.rule.secrets)}")
    if dropped:
        lines.append(f"  removed: {', '.join(dropped)}")
    lines.append(f"  connection: {_connection(request, told)}")
    mapped = policy.upstream(request.host, request.port)
    if mapped is not None:
        lines.append(f"  goes to: {'a service of the run' if at_run else join_authority(*mapped)}")
    return lines


def _step(step: Step) -> str:
    kind = "deny " if step.rule.deny else ""
    said = f"its {step.failed} does not match" if step.failed else step.outcome
    return f"  {kind}rule {step.rule.name}: {said}"


def _connection(request: RequestView, told: Explanation) -> str:
    if request.scheme == "http":
        return "plain http, decided request by request"
    if isinstance(told.connection, Intercept):
        return f"intercepted ({_INTERCEPTED[told.connection.why]})"
    return "tunnel, not looked into: neither this path nor these headers are ever seen"


def _quoted(text: str) -> str:
    """Bounded, and printable; without what may be a password."""
    return ascii(text.rpartition("@")[2][:80])
