"""What people write: a profile and its rules, from TOML or Python.

Frozen, and strict about everything: an unknown key is an error, and so is a condition that is
present but empty or null, because a reader could take it for "nothing" as well as for "anything".
Whatever no rule names is denied; a rule without ``methods``, ``paths`` or ``ports`` does not ask for them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    StrictBool,
    StrictInt,
    StrictStr,
    model_validator,
)
from pydantic_core import PydanticCustomError

from nsharness.credentials.build import bindings_of, check_bindings
from nsharness.credentials.secret import SecretRef
from nsharness.errors import NsharnessError
from nsharness.policy import checks
from nsharness.policy import placeholders as placeholder_text
from nsharness.policy.connecting import NetworkSettings, ProxySettings
from nsharness.policy.hosts import HostPattern
from nsharness.policy.model import Engine, Place, Policy, ProxyAuth, Rule, StrayPlaceholders, Unknown
from nsharness.policy.paths import PathGlob
from nsharness.policy.resources import LimitSettings
from nsharness.policy.sharing import FilePath, FilesystemSettings, PrivilegeSettings
from nsharness.policy.strict import Strict
from nsharness.policy.suffixes import is_shared
from nsharness.policy.units import Rate, parse_size

# Validators do not see defaults: None stands for "absent" there, and is refused when it is written.
_Filled = BeforeValidator(checks.filled)
_NotNull = BeforeValidator(checks.not_null)
_Text = Annotated[StrictStr, Field(min_length=1)]
_Host = Annotated[StrictStr, AfterValidator(checks.host)]
_Method = Annotated[StrictStr, AfterValidator(checks.method)]
_Path = Annotated[StrictStr, AfterValidator(checks.path)]
_Port = Annotated[StrictInt, AfterValidator(checks.port)]
_SecretRef = Annotated[StrictStr, AfterValidator(checks.secret_ref)]
_Reference = Annotated[StrictStr, AfterValidator(checks.reference)]
_Table = dict[StrictStr, StrictStr]


class SandboxProxyRule(Strict):
    """Allows requests to some hosts, or denies them, and says which credentials the proxy gives them."""

    name: Annotated[StrictStr, AfterValidator(checks.rule_name)] = Field(
        description="What logs and refusals call the rule; unique in its profile."
    )
    hosts: Annotated[tuple[_Host, ...], _Filled] = Field(
        description="Hosts that the rule is about: `wiki.local`, `*.example.com` (subdomains only, not the "
        "name itself), IP addresses. No scheme, port or path. A wildcard over a shared domain (`*`, "
        "`*.com`, `*.github.io`) needs `allow_any`, or `deny`."
    )
    deny: StrictBool = Field(
        default=False,
        description="What the rule matches is denied, wherever it stands and whatever other rules allow. "
        "Such a rule has only conditions; without `ports` it means all of them.",
    )
    headers: Annotated[_Table, _NotNull, AfterValidator(checks.headers)] = Field(
        default={},
        description="Headers that the proxy sets, in place of the client's own: name to text with "
        "templates `{{ secret-name.key }}`.",
    )
    methods: Annotated[tuple[_Method, ...] | None, _Filled] = Field(
        default=None, description="Methods that the rule allows, in upper case. Absent: any."
    )
    paths: Annotated[tuple[_Path, ...] | None, _Filled] = Field(
        default=None,
        description="Paths that the rule allows, compared after normalisation: `*` within a segment, `**` "
        "over segments. Queries are not compared. Absent: any.",
    )
    ports: Annotated[tuple[_Port, ...] | None, _Filled] = Field(
        default=None,
        description="Ports that the rule allows. Absent: 80 for http, 443 for https, and those that "
        "`upstreams` maps for the host.",
    )
    allow_any: StrictBool = Field(
        default=False,
        description="Permits over-broad wildcards in `hosts`. Never together with credentials.",
    )
    inspect: StrictBool = Field(
        default=False,
        description="Look into connections also where nothing else asks for it. Without it, TLS to hosts "
        "with no credential, path, method or limit is passed through as it is (a tunnel).",
    )
    rate: Annotated[StrictStr | None, _Filled, AfterValidator(checks.rate)] = Field(
        default=None,
        description="Requests in a period: `10/s`, `100/m`, `1000/h`, `5000/d`. As many may come at once. "
        "Absent: no limit.",
    )
    max_requests: Annotated[StrictInt | None, _Filled, AfterValidator(checks.positive)] = Field(
        default=None, description="Requests in one run of a sandbox. Absent: no limit."
    )
    max_body: Annotated[StrictStr | StrictInt | None, _Filled, AfterValidator(checks.size)] = Field(
        default=None,
        description="Size of a request's body: bytes, or `64kB`, `10MB`, `1MiB`. Absent: no limit.",
    )
    exclusive: StrictBool = Field(
        default=True,
        description="On hosts that get a credential, by this or another rule, no other is accepted: "
        "credential headers of the client are removed, requests with keys in the query are denied.",
    )
    cookies: StrictBool = Field(
        default=False, description="Lets the client's cookies through in spite of `exclusive`."
    )
    secrets: Annotated[tuple[_SecretRef, ...], _Filled, AfterValidator(checks.unique)] = Field(
        default=(),
        description="Secrets, as `secret-name.key`, whose placeholders become the secret in requests to "
        "these hosts. Needs `placeholders`.",
    )
    placeholders: Annotated[tuple[Place, ...], _Filled, AfterValidator(checks.unique)] = Field(
        default=(),
        description="Where placeholders of `secrets` become the secret: in the values of headers (`header`), "
        "in the pairs of Basic authentication (`basic`).",
    )
    client_cert: Annotated[_Reference | None, _NotNull] = Field(
        default=None,
        description="Certificate that the hosts are shown in TLS: a reference `{{ secret-name.key }}` to PEM "
        "on one line, its line breaks made spaces; a chain begins with the client's own.",
    )
    client_key: Annotated[_Reference | None, _NotNull] = Field(
        default=None,
        description="The key of `client_cert`: a reference in the same form, to a key without a passphrase.",
    )

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        if (self.client_cert is None) != (self.client_key is None):
            raise _problem("client_cert and client_key come together", "client_cert")
        if bool(self.secrets) != bool(self.placeholders):
            text = "secrets and placeholders come together: which ones, and in which places"
            raise _problem(text, "secrets" if self.secrets else "placeholders")
        if self.deny:
            allowing = self.model_fields_set - {"name", "hosts", "deny", "methods", "paths", "ports"}
            if allowing:
                raise _problem("the rule denies: it has conditions, and nothing else", min(allowing))
        if self.allow_any and self._credentialed:
            raise _problem("the rule has credentials, and those go to hosts that are named", "allow_any")
        for text in self.hosts:
            pattern = HostPattern.parse(text, allow_any=True)
            broad = pattern.subdomains and not (self.allow_any or self.deny) and is_shared(pattern.base)
            if broad:
                raise _problem(
                    f"host pattern {text} is over-broad, names below it belong to anybody: name the hosts, "
                    "or set allow_any = true on a rule without credentials",
                    "hosts",
                )
        return self

    @property
    def _credentialed(self) -> bool:
        return bool(self.headers) or bool(self.secrets) or self.client_cert is not None

    def to_rule(self) -> Rule:
        """The rule as the proxy decides by it: without templates."""
        return Rule(
            name=self.name,
            hosts=tuple(HostPattern.parse(t, allow_any=self.allow_any or self.deny) for t in self.hosts),
            header_names=tuple(self.headers),
            methods=None if self.methods is None else frozenset(self.methods),
            paths=None if self.paths is None else tuple(PathGlob.parse(text) for text in self.paths),
            ports=None if self.ports is None else frozenset(self.ports),
            allow_any=self.allow_any,
            deny=self.deny,
            rate=None if self.rate is None else Rate.parse(self.rate),
            max_requests=self.max_requests,
            max_body=None if self.max_body is None else parse_size(str(self.max_body)),
            exclusive=self.exclusive,
            cookies=self.cookies,
            inspect=self.inspect,
            secrets=self.secrets,
            placeholders=frozenset(self.placeholders),
            client_certificate=self.client_cert is not None,
        )


class Bound(Strict):
    """What requests have to match beside the rules: it allows nothing and gives no credential."""

    hosts: Annotated[tuple[_Host, ...], _Filled] = Field(
        description="Hosts that are left, as in a rule; wildcards may be broad."
    )
    methods: Annotated[tuple[_Method, ...] | None, _Filled] = Field(
        default=None, description="Methods that are left. Absent: any."
    )
    paths: Annotated[tuple[_Path, ...] | None, _Filled] = Field(
        default=None, description="Paths that are left, as in a rule. Absent: any."
    )
    ports: Annotated[tuple[_Port, ...] | None, _Filled] = Field(
        default=None, description="Ports that are left. Absent: any."
    )

    def to_rule(self, number: int) -> Rule:
        """The conditions, as those of a rule that denies: there absent ports mean all."""
        return Rule(
            name=f"only-{number}",
            hosts=tuple(HostPattern.parse(text, allow_any=True) for text in self.hosts),
            methods=None if self.methods is None else frozenset(self.methods),
            paths=None if self.paths is None else tuple(PathGlob.parse(text) for text in self.paths),
            ports=None if self.ports is None else frozenset(self.ports),
            deny=True,
        )


class Profile(Strict):
    """What an agent is told, and what its sandbox may reach."""

    name: Annotated[StrictStr, AfterValidator(checks.profile_name)] = Field(
        description="Name of the profile; run ids begin with it. A file without it is called by its own name."
    )
    extends: Annotated[StrictStr | tuple[_Text, ...], AfterValidator(checks.only_in_files)] = Field(
        default=(),
        description="Profiles that this one builds on: files, relative to its own, or names of profiles in "
        "`~/.config/nsharness`. Only in files.",
    )
    system_prompt: StrictStr = Field(default="", description="What the agent's model is told first.")
    model: _Text = Field(
        default="scripted",
        description="The model: `scripted` (offline, follows the skill file), or provider and name, for "
        "instance `anthropic:…`.",
    )
    allowed_tools: Annotated[tuple[_Text, ...], _NotNull, AfterValidator(checks.unique)] = Field(
        default=("exec", "skill"), description="Tools that the agent gets; an empty list means none."
    )
    skill_source: Annotated[_Text | None, _NotNull] = Field(
        default=None,
        description="Folder with the agent's skills, relative to the profile's file. Absent: no skills.",
    )
    sandbox_proxy_rules: Annotated[tuple[SandboxProxyRule, ...], _NotNull] = Field(
        default=(),
        description="What may be reached: a rule with `deny` that matches a request denies it; else the "
        "first that matches allows it, and a request that no rule matches is denied.",
    )
    only: Annotated[tuple[Bound, ...] | None, _Filled] = Field(
        default=None,
        description="What of it is left: a request that matches none of these is denied, whatever the rules "
        "say. Absent: all.",
    )
    upstreams: Annotated[_Table, _NotNull, AfterValidator(checks.upstreams)] = Field(
        default={},
        description="Where the proxy finds a host instead of resolving it: `host:port` (port absent: 80) to "
        "`address:port`. Without TLS, injected headers go only to local addresses that are mapped here.",
    )
    upstream_ca: Annotated[_Text | None, _NotNull] = Field(
        default=None,
        description="File with certificates (PEM) that hosts may be verified against beside the system's, "
        "relative to the profile's file.",
    )
    env: Annotated[_Table, _NotNull, AfterValidator(checks.environment)] = Field(
        default={},
        description="Environment variables of the workload. `{{ placeholder secret-name.key }}` gives it a "
        "placeholder of a secret that some rule names in `secrets`; it never gets a secret.",
    )
    stray_placeholders: StrayPlaceholders = Field(
        default="block",
        description="What becomes of a request with a placeholder where no rule turns it into the secret: it "
        "is denied, or the placeholder, which is worth nothing, is left in it.",
    )
    proxy: ProxySettings = Field(default=ProxySettings(), description="Settings of the proxy, see below.")
    network: NetworkSettings = Field(
        default=NetworkSettings(), description="What becomes of requests that no rule is about, see below."
    )
    limits: LimitSettings = Field(default=LimitSettings(), description="What a sandbox may use, see below.")
    workspace: Annotated[FilePath | None, _NotNull] = Field(
        default=None, description="Short for `workspace` in `[filesystem]`, when nothing else is said there."
    )
    filesystem: FilesystemSettings = Field(
        default=FilesystemSettings(), description="What of the host's files the workload sees, see below."
    )

    privilege: PrivilegeSettings = Field(
        default=PrivilegeSettings(), description="What is allowed beyond the ordinary, see below."
    )

    @model_validator(mode="after")
    def _check_workspace(self) -> Self:
        if self.workspace is not None and "filesystem" in self.model_fields_set:
            raise _problem("with [filesystem] the workspace is named there", "workspace")
        if self.filesystem.size is not None and "tmp" in self.limits.model_fields_set:
            raise _problem("it is given as tmp in [limits] already", "filesystem", "size")
        return self

    def limit_values(self) -> dict[str, int | float | bool | None]:
        """The limits as numbers, in bytes, seconds and cores; None for those that are absent."""
        values, size = self.limits.values(), self.files.size
        return values if size is None else {**values, "tmp": parse_size(str(size))}

    @property
    def files(self) -> FilesystemSettings:
        """What is shared, however it is written."""
        if self.workspace is None:
            return self.filesystem
        return FilesystemSettings(workspace=self.workspace)

    @model_validator(mode="after")
    def _check_rules(self) -> Self:
        names = [rule.name for rule in self.sandbox_proxy_rules]
        for index, name in enumerate(names):
            if name in names[:index]:
                raise _problem(f"two rules are called {name}", "sandbox_proxy_rules", index, "name")
        try:
            check_bindings(bindings_of(self))
        except NsharnessError as error:
            raise _problem(str(error), "sandbox_proxy_rules") from None
        entitled = {ref for rule in self.sandbox_proxy_rules for ref in rule.secrets}
        for variable, text in self.env.items():
            for ref in placeholder_text.references(text):
                if str(ref) not in entitled:
                    # It would stay what it is wherever it goes, and nobody would be told.
                    why = f"no rule turns the placeholder of {ref} into the secret: name it in secrets of one"
                    raise _problem(why, "env", variable)
        return self

    def environment(self, placeholder: Callable[[SecretRef], str]) -> dict[str, str]:
        """The workload's variables; ``placeholder`` makes that of a secret."""
        return {name: placeholder_text.fill(text, placeholder) for name, text in self.env.items()}

    def to_policy(self) -> Policy:
        """The part that the proxy decides by."""
        return Policy(
            profile=self.name,
            rules=tuple(rule.to_rule() for rule in self.sandbox_proxy_rules),
            upstreams={name: checks.upstream_address(target) for name, target in self.upstreams.items()},
            proxy_auth=self.proxy.auth,
            stray_placeholders=self.stray_placeholders,
            engine=self.proxy.engine,
            unknown=self.network.unknown,
            ask_seconds=self.network.ask_seconds,
            only=None if self.only is None else tuple(b.to_rule(n) for n, b in enumerate(self.only, 1)),
        )

    def policy_json(self, upstreams: Mapping[str, str]) -> dict[str, Any]:
        """The same with more ``upstreams``, as JSON. Raises ``ValueError``."""
        return self.with_upstreams(upstreams).to_policy().to_json()

    @property
    def proxy_auth(self) -> ProxyAuth:
        """How the proxy knows the sandbox."""
        return self.proxy.auth

    @property
    def unknown(self) -> Unknown:
        """What becomes of a request to a host that no rule names."""
        return self.network.unknown

    @property
    def served_by(self) -> Engine:
        """What moves the bytes."""
        return self.to_policy().served_by

    @property
    def user_namespaces(self) -> bool:
        """Whether programs may make user namespaces."""
        return self.privilege.user_namespaces

    def with_upstreams(self, upstreams: Mapping[str, str]) -> Profile:
        """This profile with more mapped upstreams, which replace those of the same name.

        Validated, where ``model_copy`` takes everything. Raises ``ValueError``.
        """
        merged = {**self.upstreams, **checks.upstreams(dict(upstreams))}
        written = {name: getattr(self, name) for name in self.model_fields_set}
        return Profile.model_validate({**written, "upstreams": merged})


def _problem(text: str, *where: str | int) -> PydanticCustomError:
    """A failure of several keys together, with the key that a message should point at."""
    return PydanticCustomError("profile", "{text}", {"text": text, "where": where})
