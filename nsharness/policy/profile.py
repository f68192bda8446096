"""What people write: a profile and its rules, from TOML or Python.

Frozen, and strict about everything: an unknown key is an error, and so is a condition that is
present but empty or null, because a reader could take it for "nothing" as well as for "anything".
Whatever no rule names is denied; a rule without ``methods``, ``paths`` or ``ports`` does not ask for them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictBool,
    StrictInt,
    StrictStr,
    model_validator,
)
from pydantic_core import PydanticCustomError

from nsharness.credentials.build import bindings_of, check_bindings
from nsharness.errors import NsharnessError
from nsharness.policy import checks
from nsharness.policy.hosts import HostPattern
from nsharness.policy.model import Policy, Rule
from nsharness.policy.paths import PathGlob
from nsharness.policy.suffixes import is_shared

# Validators do not see defaults: None stands for "absent" there, and is refused when it is written.
_Filled = BeforeValidator(checks.filled)
_NotNull = BeforeValidator(checks.not_null)
_Text = Annotated[StrictStr, Field(min_length=1)]
_Host = Annotated[StrictStr, AfterValidator(checks.host)]
_Method = Annotated[StrictStr, AfterValidator(checks.method)]
_Path = Annotated[StrictStr, AfterValidator(checks.path)]
_Port = Annotated[StrictInt, AfterValidator(checks.port)]
_Table = dict[StrictStr, StrictStr]


class _Strict(BaseModel):
    # A value that failed to validate may be a secret that stands in the wrong place.
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class SandboxProxyRule(_Strict):
    """Allows requests to some hosts, and says which headers the proxy sets on them."""

    name: Annotated[StrictStr, AfterValidator(checks.rule_name)] = Field(
        description="What logs and refusals call the rule; unique in its profile."
    )
    hosts: Annotated[tuple[_Host, ...], _Filled] = Field(
        description="Hosts that the rule allows: `wiki.local`, `*.example.com` (subdomains only, not the "
        "name itself), IP addresses. No scheme, port or path. A wildcard over a shared domain (`*`, "
        "`*.com`, `*.github.io`) needs `allow_any`."
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
        default=False, description="Permits over-broad wildcards in `hosts`. Never together with `headers`."
    )

    @model_validator(mode="after")
    def _check_breadth(self) -> Self:
        if self.allow_any and self.headers:
            raise _problem("the rule has headers, and those go to hosts that are named", "allow_any")
        for text in self.hosts:
            pattern = HostPattern.parse(text, allow_any=True)
            if pattern.subdomains and not self.allow_any and is_shared(pattern.base):
                raise _problem(
                    f"host pattern {text} is over-broad, names below it belong to anybody: name the hosts, "
                    "or set allow_any = true on a rule without headers",
                    "hosts",
                )
        return self

    def to_rule(self) -> Rule:
        """The rule as the proxy decides by it: without templates."""
        return Rule(
            name=self.name,
            hosts=tuple(HostPattern.parse(text, allow_any=self.allow_any) for text in self.hosts),
            header_names=tuple(self.headers),
            methods=None if self.methods is None else frozenset(self.methods),
            paths=None if self.paths is None else tuple(PathGlob.parse(text) for text in self.paths),
            ports=None if self.ports is None else frozenset(self.ports),
            allow_any=self.allow_any,
        )


class Profile(_Strict):
    """What an agent is told, and what its sandbox may reach."""

    name: Annotated[StrictStr, AfterValidator(checks.profile_name)] = Field(
        description="Name of the profile; run ids begin with it. A file without it is called by its own name."
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
        description="What may be reached: the first rule that matches a request allows it, and a request "
        "that no rule matches is denied.",
    )
    upstreams: Annotated[_Table, _NotNull, AfterValidator(checks.upstreams)] = Field(
        default={},
        description="Where the proxy finds a host instead of resolving it: `host:port` (port absent: 80) to "
        "`address:port`. Without TLS, injected headers go only to local addresses that are mapped here.",
    )
    env: Annotated[_Table, _NotNull, AfterValidator(checks.environment)] = Field(
        default={}, description="Environment variables of the workload. No templates: it never gets a secret."
    )
    proxy_auth: Literal["listener", "bearer"] = Field(
        default="listener",
        description="How the proxy knows the sandbox: by the socket that a connection arrives on, or in "
        "addition by a bearer in the proxy's URL (then only explicit proxying works).",
    )
    workspace: Annotated[_Text | None, _NotNull] = Field(
        default=None, description="Folder of the host that the workload may read and write. Absent: none."
    )

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
        return self

    def to_policy(self) -> Policy:
        """The part that the proxy decides by."""
        return Policy(
            profile=self.name,
            rules=tuple(rule.to_rule() for rule in self.sandbox_proxy_rules),
            upstreams={name: checks.upstream_address(target) for name, target in self.upstreams.items()},
            proxy_auth=self.proxy_auth,
        )

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
