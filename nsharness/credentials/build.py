"""From rules with templates to the credential map: which header with which value goes to which host.

The map is ``{host pattern: {header: value}}``, keyed by the same canonical patterns that the policy
matches, so that the list of hosts that are decided on and the list of hosts that get a
credential cannot drift apart. Beside headers a rule can bind secrets to hosts, for placeholders, and a
certificate with its key, for TLS: all of them travel the same way.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol, cast, get_args

from nsharness.credentials.map import ClientCertificate
from nsharness.credentials.map import CredentialMap as CredentialMap  # noqa: PLC0414 - is imported from here
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


class TemplateRule(Protocol):
    """What is used of a profile's rule, so that this module needs no pydantic."""

    @property
    def name(self) -> str: ...
    @property
    def hosts(self) -> Iterable[str]: ...
    @property
    def headers(self) -> Mapping[str, str]: ...
    @property
    def secrets(self) -> Iterable[str]: ...
    @property
    def client_cert(self) -> str | None: ...
    @property
    def client_key(self) -> str | None: ...


class _Profile(Protocol):
    @property
    def sandbox_proxy_rules(self) -> Iterable[TemplateRule]: ...


class Lookup(Protocol):
    """Where values come from: a secret store."""

    def get(self, name: str, key: str) -> Secret: ...


BindingKind = Literal["header", "placeholder", "client-certificate", "client-key"]


@dataclass(frozen=True, slots=True)
class Binding:
    """One template of one rule, and the host patterns that it is for. Of kind ``header`` it is the value of
    the header of that name; of the other kinds, which have no header, it is a single reference."""

    rule: str
    hosts: tuple[str, ...]
    header: str
    template: str
    kind: BindingKind = "header"

    def to_json(self) -> dict[str, object]:
        return {
            "rule": self.rule,
            "hosts": list(self.hosts),
            "header": self.header,
            "template": self.template,
            "kind": self.kind,
        }

    @classmethod
    def from_json(cls, data: object) -> Binding:
        """``ValueError`` unless the data is what ``to_json`` wrote. Without a kind it is a header's."""
        needed = {"rule", "hosts", "header", "template"}
        if not isinstance(data, dict) or set(data) | {"kind"} != needed | {"kind"}:
            raise ValueError("a binding has rule, hosts, header, template and perhaps kind")
        hosts, kind = data["hosts"], data.get("kind", "header")
        texts = (
            data["rule"],
            data["header"],
            data["template"],
            *(hosts if isinstance(hosts, list) else (None,)),
        )
        if not all(isinstance(text, str) for text in texts):
            raise ValueError("a binding is made of strings")
        if kind not in get_args(BindingKind) or (kind == "header") != bool(data["header"]):
            raise ValueError("a binding is of a known kind, and has a header where that is it")
        return cls(data["rule"], tuple(hosts), data["header"], data["template"], cast("BindingKind", kind))


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


def check_reference(text: str) -> str:
    """The canonical form of a template that is one reference and nothing else; else ``ValueError``."""
    template = Template.parse(text)
    if len(template.parts) != 1 or not template.refs:
        raise ValueError("this is a single reference to a secret: {{ secret-name.key }}")
    return str(template)


def bindings_of(profile: _Profile) -> tuple[Binding, ...]:
    """The bindings of a profile in its order."""
    return tuple(binding for rule in profile.sandbox_proxy_rules for binding in _of_rule(rule))


def _of_rule(rule: TemplateRule) -> Iterable[Binding]:
    hosts = tuple(rule.hosts)
    for header, template in rule.headers.items():
        yield Binding(rule.name, hosts, header, template)
    for ref in rule.secrets:
        yield Binding(rule.name, hosts, "", f"{{{{ {ref} }}}}", "placeholder")
    if rule.client_cert is not None and rule.client_key is not None:
        yield Binding(rule.name, hosts, "", rule.client_cert, "client-certificate")
        yield Binding(rule.name, hosts, "", rule.client_key, "client-key")


def check_bindings(bindings: Iterable[Binding]) -> None:
    """Everything that can be wrong with bindings before a secret is read, as ``NsharnessError``.

    A host and header that two rules bind to different templates is refused: which one would be
    sent would depend on the order of rules that a person reads as independent. So for certificates.
    """
    bound: dict[tuple[str, str], tuple[str, Binding]] = {}
    for binding in bindings:
        template = _checked_template(binding)
        if binding.kind == "placeholder":
            continue
        for host in binding.hosts:
            pattern = _pattern(f"rule {binding.rule}", host)
            key = (pattern, binding.header.lower() or f"({binding.kind})")
            other = bound.setdefault(key, (template, binding))
            if (other[0], other[1].header) != (template, binding.header):
                what = f"header {binding.header}" if binding.header else f"a {binding.kind}"
                raise NsharnessError(
                    f"rules {other[1].rule} and {binding.rule}",
                    why=f"both bind {what} of {pattern}, differently",
                    hint="give each host and header one value, in the same spelling",
                )


def build(bindings: Iterable[Binding], store: Lookup) -> CredentialMap:
    """Resolve every template. ``NsharnessError`` names rule, header, secret and key; no value, ever."""
    bindings = tuple(bindings)
    check_bindings(bindings)
    used: dict[str, Secret] = {}
    hosts: dict[str, dict[str, Secret]] = {}
    entitled: dict[str, dict[str, None]] = {}
    keys: dict[str, dict[str, Secret]] = {}
    for binding in bindings:
        value = _resolve(binding, store, used)
        for host in binding.hosts:
            pattern = _pattern(f"rule {binding.rule}", host)
            if binding.kind == "header":
                hosts.setdefault(pattern, {})[binding.header] = value
            elif binding.kind == "placeholder":
                refs = Template.parse(binding.template).refs
                entitled.setdefault(pattern, {}).update({str(ref): None for ref in refs})
            else:
                keys.setdefault(pattern, {})[binding.kind] = value
    return CredentialMap(
        hosts,
        secrets=used,
        entitled=entitled,
        certificates={pattern: _certificate(pattern, pair) for pattern, pair in keys.items()},
    )


def build_credential_map(profile: _Profile, store: Lookup) -> CredentialMap:
    """The credential map of a profile; see ``build``."""
    return build(bindings_of(profile), store)


def _where(binding: Binding) -> str:
    what = f"header {binding.header}" if binding.kind == "header" else binding.kind.replace("-", " ")
    return f"rule {binding.rule}, {what}"


def _checked_template(binding: Binding) -> str:
    """The template in canonical form."""
    if binding.kind == "header":
        try:
            check_header_name(binding.header)
        except ValueError as error:
            raise NsharnessError(f"rule {binding.rule}", why=str(error)) from None
    try:
        if binding.kind != "header":
            return check_reference(binding.template)
        return str(check_header_template(binding.template))
    except ValueError as error:
        hint = "write {{ secret-name.key }}" if isinstance(error, TemplateError) else ""
        raise NsharnessError(_where(binding), why=str(error), hint=hint) from None


def _resolve(binding: Binding, store: Lookup, used: dict[str, Secret]) -> Secret:
    """The value of a binding; the secrets in it, but for those of TLS, go into ``used``."""
    where = _where(binding)

    def lookup(ref: SecretRef) -> Secret:
        try:
            found = store.get(ref.name, ref.key)
        except SecretNotFoundError as error:
            raise NsharnessError(f"{where}: secret {ref}", why=error.why, hint=error.hint) from None
        if binding.kind in ("header", "placeholder"):
            used[str(ref)] = found
        return found

    value = Template.parse(binding.template).render(lookup)
    # What is for TLS goes into no header, and ends in a space where a file's last line did.
    if binding.kind in ("header", "placeholder") and not _FIELD_VALUE.fullmatch(value.reveal()):
        names = ", ".join(str(ref) for ref in Template.parse(binding.template).refs)
        raise NsharnessError(
            f"{where}: secret {names}", why="its value has characters that no header may have"
        )
    return value


def _certificate(pattern: str, pair: Mapping[str, Secret]) -> ClientCertificate:
    where = f"client certificate of {pattern}"
    if len(pair) != 2:
        raise NsharnessError(where, why="it has no key, or a key has no certificate")
    try:
        return ClientCertificate(pair["client-certificate"], pair["client-key"])
    except ValueError as error:
        hint = "store each with: tr '\\n' ' ' < FILE | nsharness secret set NAME --key KEY"
        raise NsharnessError(where, why=str(error), hint=hint) from None


def _pattern(where: str, host: str) -> str:
    try:
        return str(HostPattern.parse(host))
    except ValueError as error:
        raise NsharnessError(where, why=str(error)) from None
