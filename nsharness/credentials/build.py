"""From rules with templates to the credential map: which header with which value goes to which host.

The map is ``{host pattern: {header: value}}``, keyed by the same canonical patterns that the policy
matches, so that the list of hosts that are decided on and the list of hosts that get a
credential cannot drift apart.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

from nsharness.credentials.secret import Secret, SecretNotFoundError, SecretRef
from nsharness.credentials.template import Template, TemplateError
from nsharness.errors import NsharnessError
from nsharness.policy.hosts import HostPattern
from nsharness.policy.request import TOKEN

# RFC 9110 section 5.5, without obs-text: bytes beyond ASCII have no agreed meaning in a header.
_FIELD_VALUE = re.compile(r"[!-~](?:[ \t!-~]*[!-~])?")

# Headers that frame the message or belong to one connection (RFC 9110 section 7.6.1, RFC 9112): to
# inject one would change where a request ends or leads, not who sends it. The method overrides would
# turn a request that was checked into another one.
_NOT_INJECTED = frozenset(
    {"host", "content-length", "transfer-encoding", "connection", "keep-alive", "te", "trailer", "upgrade"}
    | {"expect", "http2-settings", "sec-websocket-key", "sec-websocket-version", "sec-websocket-extensions"}
    | {"x-http-method", "x-http-method-override", "x-method-override"}
)
_NOT_INJECTED_PREFIXES = ("proxy-", "x-nsharness-")


class _Rule(Protocol):
    """What is used of a profile's rule, so that this module needs no pydantic."""

    @property
    def name(self) -> str: ...
    @property
    def hosts(self) -> Iterable[str]: ...
    @property
    def headers(self) -> Mapping[str, str]: ...


class _Profile(Protocol):
    @property
    def sandbox_proxy_rules(self) -> Iterable[_Rule]: ...


class Lookup(Protocol):
    """Where values come from: a secret store."""

    def get(self, name: str, key: str) -> Secret: ...


@dataclass(frozen=True, slots=True)
class Binding:
    """One header of one rule: its template goes to these host patterns."""

    rule: str
    hosts: tuple[str, ...]
    header: str
    template: str

    def to_json(self) -> dict[str, object]:
        return {
            "rule": self.rule,
            "hosts": list(self.hosts),
            "header": self.header,
            "template": self.template,
        }

    @classmethod
    def from_json(cls, data: object) -> Binding:
        """``ValueError`` unless the data is what ``to_json`` wrote."""
        if not isinstance(data, dict) or set(data) != {"rule", "hosts", "header", "template"}:
            raise ValueError("a binding has rule, hosts, header and template")
        hosts = data["hosts"]
        texts = (
            data["rule"],
            data["header"],
            data["template"],
            *(hosts if isinstance(hosts, list) else (None,)),
        )
        if not all(isinstance(text, str) for text in texts):
            raise ValueError("a binding is made of strings")
        return cls(data["rule"], tuple(hosts), data["header"], data["template"])


class CredentialMap:
    """``{host pattern: {header name: value}}``, read-only. Shows hosts and header names, never a value."""

    __slots__ = ("_hosts",)

    def __init__(self, hosts: Mapping[str, Mapping[str, Secret]]) -> None:
        self._hosts = {host: dict(headers) for host, headers in hosts.items()}

    def value(self, host: str, header: str) -> Secret | None:
        """The value for a pattern's canonical text and a header name in any case."""
        for name, secret in self._hosts.get(host, {}).items():
            if name.lower() == header.lower():
                return secret
        return None

    @property
    def hosts(self) -> tuple[str, ...]:
        """The host patterns that get a credential, in the order of the profile."""
        return tuple(self._hosts)

    def header_names(self) -> dict[str, list[str]]:
        """What may be logged: the names of the headers for each host pattern."""
        return {host: list(headers) for host, headers in self._hosts.items()}

    def secrets(self) -> Iterator[Secret]:
        """All values, for whoever must recognise them."""
        for headers in self._hosts.values():
            yield from headers.values()

    def to_bytes(self) -> bytes:
        """The map with its values as JSON: only ever into a sealed memfd."""
        plain = {
            host: {name: s.reveal() for name, s in headers.items()} for host, headers in self._hosts.items()
        }
        return json.dumps(plain, ensure_ascii=True, separators=(",", ":")).encode()

    @classmethod
    def from_bytes(cls, content: bytes) -> CredentialMap:
        """Read what ``to_bytes`` wrote; ``ValueError``, without the content, if it is not that."""
        hosts = _parsed(content)
        if hosts is None:
            del content
            raise ValueError("the credential map is malformed")
        return cls(hosts)

    def __eq__(self, other: object) -> bool:
        return self._hosts == other._hosts if isinstance(other, CredentialMap) else NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def __len__(self) -> int:
        return len(self._hosts)

    def __repr__(self) -> str:
        return f"CredentialMap({self.header_names()})"


def check_header_name(name: str) -> None:
    """``ValueError`` unless it is a token that says nothing about framing, connection or method."""
    if not TOKEN.fullmatch(name):
        raise ValueError(f"header name {name!a} is not a token (RFC 9110 section 5.6.2)")
    if name.lower() in _NOT_INJECTED or name.lower().startswith(_NOT_INJECTED_PREFIXES):
        raise ValueError(f"header {name} is about the connection or the method and cannot be injected")


def check_header_template(text: str) -> Template:
    """The parsed template of a header's value; ``ValueError`` when it can never be a field value."""
    template = Template.parse(text)
    # Stand in for the values with a plain character, to judge the text around them.
    shape = "".join(part if isinstance(part, str) else "x" for part in template.parts)
    if not _FIELD_VALUE.fullmatch(shape):
        raise ValueError("header value is empty, has white space at an end, or characters no header may have")
    return template


def bindings_of(profile: _Profile) -> tuple[Binding, ...]:
    """The bindings of a profile in its order."""
    return tuple(
        Binding(rule.name, tuple(rule.hosts), header, template)
        for rule in profile.sandbox_proxy_rules
        for header, template in rule.headers.items()
    )


def check_bindings(bindings: Iterable[Binding]) -> None:
    """Everything that can be wrong with bindings before a secret is read, as ``NsharnessError``.

    A host and header that two rules bind to different templates is refused: which one would be
    sent would depend on the order of rules that a person reads as independent.
    """
    bound: dict[tuple[str, str], tuple[str, Binding]] = {}
    for binding in bindings:
        where = f"rule {binding.rule}"
        try:
            check_header_name(binding.header)
        except ValueError as error:
            raise NsharnessError(where, why=str(error)) from None
        try:
            template = str(check_header_template(binding.template))
        except ValueError as error:
            hint = "write {{ secret-name.key }}" if isinstance(error, TemplateError) else ""
            raise NsharnessError(f"{where}, header {binding.header}", why=str(error), hint=hint) from None
        for host in binding.hosts:
            pattern = _pattern(where, host)
            key = (pattern, binding.header.lower())
            other = bound.setdefault(key, (template, binding))
            if (other[0], other[1].header) != (template, binding.header):
                raise NsharnessError(
                    f"rules {other[1].rule} and {binding.rule}",
                    why=f"both bind header {binding.header} of {pattern}, differently",
                    hint="give each host and header one value, in the same spelling",
                )


def build(bindings: Iterable[Binding], store: Lookup) -> CredentialMap:
    """Resolve every template. ``NsharnessError`` names rule, header, secret and key; no value, ever."""
    bindings = tuple(bindings)
    check_bindings(bindings)
    hosts: dict[str, dict[str, Secret]] = {}
    for binding in bindings:
        value = _resolve(binding, store)
        for host in binding.hosts:
            hosts.setdefault(_pattern(f"rule {binding.rule}", host), {})[binding.header] = value
    return CredentialMap(hosts)


def build_credential_map(profile: _Profile, store: Lookup) -> CredentialMap:
    """The credential map of a profile; see ``build``."""
    return build(bindings_of(profile), store)


def _resolve(binding: Binding, store: Lookup) -> Secret:
    where = f"rule {binding.rule}, header {binding.header}"

    def lookup(ref: SecretRef) -> Secret:
        try:
            return store.get(ref.name, ref.key)
        except SecretNotFoundError as error:
            raise NsharnessError(f"{where}: secret {ref}", why=error.why, hint=error.hint) from None

    value = Template.parse(binding.template).render(lookup)
    if not _FIELD_VALUE.fullmatch(value.reveal()):
        names = ", ".join(str(ref) for ref in Template.parse(binding.template).refs)
        raise NsharnessError(
            f"{where}: secret {names}", why="its value has characters that no header may have"
        )
    return value


def _pattern(where: str, host: str) -> str:
    try:
        return str(HostPattern.parse(host))
    except ValueError as error:
        raise NsharnessError(where, why=str(error)) from None


def _parsed(content: bytes) -> dict[str, dict[str, Secret]] | None:
    try:
        return {
            str(HostPattern.parse(host)): {name: Secret(value) for name, value in headers.items()}
            for host, headers in json.loads(content).items()
        }
    except (ValueError, AttributeError, TypeError):
        return None
