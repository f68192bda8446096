"""Each preset: what it allows, to whom it gives the secret, and that it allows nothing else."""

from __future__ import annotations

import base64
from urllib.parse import urlsplit

import pytest

from nsharness.credentials.build import build_credential_map
from nsharness.credentials.kinds import kind_of
from nsharness.credentials.placeholder import placeholder
from nsharness.credentials.secret import Secret, SecretRef
from nsharness.errors import NsharnessError
from nsharness.policy.authority import Claims
from nsharness.policy.commandline import Addition, adjusted
from nsharness.policy.decide import Allow, Deny, decide
from nsharness.policy.headers import outgoing
from nsharness.policy.load import parse_profile
from nsharness.policy.names import NameTable
from nsharness.policy.profile import Profile, SandboxProxyRule
from nsharness.policy.proof import VerifiedCertificate, prove
from nsharness.policy.request import RequestView
from nsharness.presets.catalogue import load, names
from nsharness.presets.filling import filled
from nsharness.presets.settings import FINDERS, WHERE, Found, Registry
from nsharness.presets.writing import profile_text
from nsharness_proxy.placeholders import Placeholders

FOUND = Found(
    (
        Registry("pkg.example.com", "/root", url="https://pkg.example.com/root/simple", credential=True),
        Registry("other.example.com", "", 8443, url="https://other.example.com:8443/"),
    ),
    {"CONFIGURED": "yes"},
)
NPM = Found((Registry("npm.example.com", "/root", url="https://npm.example.com/root/", credential=True),))
BEDROCK = Found((Registry("bedrock-runtime.eu-west-1.amazonaws.com"),), {"AWS_REGION": "eu-west-1"})

# What a stored secret looks like; the rest of each is public.
SECRETS = {
    "anthropic.key": "sk-ant-api03-" + "a" * 93 + "AA",
    "openai.key": "sk-proj-" + "b" * 156,
    "gemini.key": "AIza" + "c" * 35,
    "github.token": "ghp_" + "d" * 36,
    "gitlab.token": "glpat-" + "e" * 20,
    "huggingface.token": "hf_" + "f" * 34,
    "bedrock.key": "ABSK" + "g" * 60,
    "python.basic": base64.b64encode(b"user:password").decode(),
    "npm.token": "npm_" + "h" * 36,
}

# Preset, request, a header as the tool sends it (with what it was given), and what the service must get.
SERVED = [
    ("claude-code", "POST https://api.anthropic.com/v1/messages", "x-api-key: {}", "anthropic.key"),
    ("claude-code", "GET https://api.anthropic.com/v1/models", "x-api-key: {}", "anthropic.key"),
    ("codex", "POST https://api.openai.com/v1/responses", "Authorization: Bearer {}", "openai.key"),
    ("codex", "GET https://api.openai.com/v1/responses", "Authorization: Bearer {}", "openai.key"),
    (
        "gemini",
        "POST https://generativelanguage.googleapis.com/v1beta/models/gemini-x:streamGenerateContent",
        "x-goog-api-key: {}",
        "gemini.key",
    ),
    ("opencode", "POST https://api.anthropic.com/v1/messages", "x-api-key: {}", "anthropic.key"),
    ("aider", "POST https://api.openai.com/v1/chat/completions", "Authorization: Bearer {}", "openai.key"),
    ("github", "GET https://github.com/o/r.git/info/refs", "Authorization: Basic {}", "github.token"),
    ("github", "POST https://github.com/o/r/git-receive-pack", "Authorization: Basic {}", "github.token"),
    ("github", "GET https://api.github.com/repos/o/r/issues", "Authorization: token {}", "github.token"),
    ("github", "POST https://api.github.com/repos/o/r/pulls", "Authorization: Bearer {}", "github.token"),
    ("github", "POST https://api.github.com/graphql", "Authorization: token {}", "github.token"),
    ("gitlab", "GET https://gitlab.com/g/s/r.git/info/refs", "Authorization: Basic {}", "gitlab.token"),
    ("gitlab", "GET https://gitlab.com/api/v4/projects/1", "PRIVATE-TOKEN: {}", "gitlab.token"),
    ("gitlab", "POST https://gitlab.com/api/v4/projects/1/issues", "PRIVATE-TOKEN: {}", "gitlab.token"),
    (
        "huggingface",
        "GET https://huggingface.co/o/m/resolve/main/config.json",
        "Authorization: Bearer {}",
        "huggingface.token",
    ),
    (
        "aws",
        "POST https://bedrock-runtime.eu-west-1.amazonaws.com/model/m/converse",
        "Authorization: Bearer {}",
        "bedrock.key",
    ),
    ("python", "GET https://pkg.example.com/root/simple/thing/", "Authorization: Basic x", "python.basic"),
    ("npm", "GET https://npm.example.com/root/thing", "Authorization: Bearer x", "npm.token"),
]
WITHOUT_SECRET = [
    ("opencode", "GET https://models.opencode.ai/api.json"),
    ("github", "GET https://codeload.github.com/o/r/tar.gz/main"),
    ("huggingface", "GET https://cdn-lfs.hf.co/x"),
    ("cargo", "GET https://other.example.com:8443/config.json"),
    ("debian", "GET https://pkg.example.com/root/dists/stable/InRelease"),
    ("containers", "HEAD https://pkg.example.com/root/x"),
]
DENIED = [
    ("claude-code", "DELETE https://api.anthropic.com/v1/messages"),
    ("claude-code", "POST https://api.anthropic.com/v1/files"),
    ("claude-code", "GET https://api.anthropic.com/v1/organizations/api_keys"),
    ("codex", "POST https://api.openai.com/v1/files"),
    ("codex", "POST https://chatgpt.com/backend-api/codex/responses"),
    ("gemini", "GET https://generativelanguage.googleapis.com/v1beta/files"),
    ("opencode", "POST https://api.anthropic.com/v1/files"),
    ("aider", "GET https://api.openai.com/v1/organization/admin_api_keys"),
    ("github", "GET https://github.com/settings/tokens"),
    ("github", "DELETE https://api.github.com/repos/o/r"),
    ("github", "PUT https://api.github.com/repos/o/r/actions/secrets/x"),
    ("github", "POST https://api.github.com/repos/o/r/keys"),
    ("github", "POST https://api.github.com/gists"),
    ("gitlab", "POST https://gitlab.com/api/v4/projects/1/variables"),
    ("gitlab", "GET https://gitlab.com/api/v4/personal_access_tokens"),
    ("huggingface", "POST https://huggingface.co/api/repos/create"),
    ("aws", "GET https://s3.eu-west-1.amazonaws.com/bucket"),
    ("python", "POST https://pkg.example.com/root/"),
    ("npm", "PUT https://npm.example.com/root/thing"),
    ("cargo", "GET https://pkg.example.com/elsewhere"),
    ("debian", "GET https://other.example.com/"),
    ("containers", "POST https://pkg.example.com/root/blobs/uploads/"),
]
TELEMETRY = [
    ("claude-code", "POST https://statsig.anthropic.com/v1/rgstr"),
    ("claude-code", "POST https://o1.ingest.sentry.io/api"),
    ("claude-code", "POST https://api.anthropic.com/api/event_logging/v2/batch"),
    ("codex", "POST https://ab.chatgpt.com/otlp/v1/metrics"),
    ("gemini", "POST https://play.googleapis.com/log"),
    ("aider", "POST https://us.i.posthog.com/batch/"),
    ("huggingface", "HEAD https://huggingface.co/api/telemetry/x"),
]


class Store:
    def get(self, name: str, key: str) -> Secret:
        return Secret(SECRETS[f"{name}.{key}"])


def addition(name: str) -> Addition:
    preset = load(name)
    found = {"aws": BEDROCK, "npm": NPM}.get(name, FOUND)
    return filled(preset, found if preset.settings else Found())


def profile(name: str) -> Profile:
    return adjusted(Profile(name="test"), additions=[addition(name)])


def request(text: str) -> RequestView:
    method, url = text.split()
    parts = urlsplit(url)
    return RequestView(method, "https", parts.hostname or "", parts.port or 443, parts.path)


def sent(made: Profile, text: str, header: str) -> list[str]:
    """The header fields with which the proxy sends a request on; the tool has only placeholders."""
    seen, policy = request(text), made.to_policy()
    allow = decide(policy, seen)
    assert isinstance(allow, Allow), allow
    credentials = build_credential_map(made, Store())
    texts = {
        placeholder(SecretRef.parse(ref), kind_of(SECRETS[ref]), b"s" * 32): ref for ref in allow.rule.secrets
    }
    given = next(iter(texts), "")
    name, _, value = header.partition(": ")
    if "Basic {}" in value:
        value = "Basic " + base64.b64encode(f"user:{given}".encode()).decode()
    fields = [(name.encode(), value.format(given).encode())]
    known = Placeholders(texts)
    kept = outgoing(fields, allow, websocket=False, placeholders=known.usable(allow.rule))
    proof = prove(
        sandbox="s",
        claims=Claims(
            "connect",
            connect_target=f"{seen.host}:443",
            sni=seen.host,
            host_headers=(seen.host,),
            tls=True,
        ),
        names=NameTable(),
        policy=policy,
        request=seen,
        upstream=VerifiedCertificate(seen.host, "93.184.216.34"),
        secret_version=credentials.version,
    )
    if proof.secrets:
        kept = known.filled(kept, allow.rule, credentials.placeholder_secrets(proof))
    kept += [(each.encode(), credentials.reveal(proof, each).encode()) for each in allow.inject]
    return [f"{name.decode()}: {value.decode()}" for name, value in kept]


def demanded(header: str, secret: str) -> str:
    """What the service wants to see."""
    if "Basic {}" in header:
        return header.format(base64.b64encode(f"user:{secret}".encode()).decode())
    return header.format(secret) if "{}" in header else header.removesuffix("x") + secret


@pytest.mark.parametrize(("name", "text", "header", "ref"), SERVED)
def test_the_service_gets_the_secret_and_the_tool_does_not(
    name: str, text: str, header: str, ref: str
) -> None:
    assert demanded(header, SECRETS[ref]) in sent(profile(name), text, header)
    assert SECRETS[ref] not in str(profile(name).env)


@pytest.mark.parametrize(("name", "text"), WITHOUT_SECRET)
def test_other_hosts_are_reached_without_one(name: str, text: str) -> None:
    made = decide(profile(name).to_policy(), request(text))
    assert isinstance(made, Allow)
    assert (made.inject, made.rule.secrets) == ((), ())


@pytest.mark.parametrize(("name", "text"), DENIED + TELEMETRY)
def test_the_rest_is_denied(name: str, text: str) -> None:
    assert isinstance(decide(profile(name).to_policy(), request(text)), Deny)


@pytest.mark.parametrize(("name", "text"), TELEMETRY)
def test_telemetry_stays_denied_where_the_profile_allows_its_host(name: str, text: str) -> None:
    everything = Profile.model_validate(
        {"name": "p", "sandbox_proxy_rules": [{"name": "all", "hosts": ["*"], "allow_any": True}]}
    )
    assert isinstance(decide(everything.to_policy(), request(text)), Allow)
    assert isinstance(
        decide(adjusted(everything, additions=[addition(name)]).to_policy(), request(text)), Deny
    )


def test_every_preset_is_in_the_tables() -> None:
    assert {row[0] for row in SERVED} | {row[0] for row in WITHOUT_SECRET} == set(names())
    assert {row[0] for row in DENIED} == set(names())
    entitled = {
        (name, ref) for name in names() for rule in profile(name).sandbox_proxy_rules for ref in rule.secrets
    }
    assert entitled <= {(row[0], row[3]) for row in SERVED}


@pytest.mark.parametrize("name", names())
def test_no_preset_is_over_broad(name: str) -> None:
    rules = [rule for rule in profile(name).sandbox_proxy_rules if not rule.deny]
    assert rules
    for rule in rules:
        assert rule.methods
        assert not rule.allow_any
        credentialed = bool(rule.secrets or rule.headers)
        assert not (credentialed and any("*" in host for host in rule.hosts)), rule.name
        if rule.paths is None:
            assert not credentialed
            assert set(rule.methods) <= {"GET", "HEAD"}
        if credentialed:
            assert not {"/**", "/*/**"} & set(rule.paths or ())
            assert not set(rule.methods) & {"DELETE"}


@pytest.mark.parametrize("name", names())
def test_a_preset_says_what_it_is_and_which_secrets_it_needs(name: str) -> None:
    preset = load(name)
    assert preset.about
    assert "\n" not in preset.about
    used = {ref for rule in profile(name).sandbox_proxy_rules for ref in rule.secrets}
    assert used <= set(preset.secrets)
    assert preset.settings in {"", *FINDERS}
    assert FINDERS.keys() == WHERE.keys()
    assert all(SandboxProxyRule.model_validate(rule) for rule in preset.rules)


@pytest.mark.parametrize(
    ("name", "near"), [("gihtub", "github"), ("claude", "claude-code"), ("pyhton", "python")]
)
def test_an_unknown_preset_is_one_line_with_the_nearest_name(name: str, near: str) -> None:
    with pytest.raises(NsharnessError, match=f"unknown preset '{name}' .did you mean {near}") as caught:
        load(name)
    assert "\n" not in str(caught.value)
    with pytest.raises(NsharnessError, match="nsharness presets lists them"):
        load("zzzzzzzz")
    with pytest.raises(NsharnessError, match="unknown preset"):
        load("../presets/github")


def test_without_a_configuration_there_is_no_package_preset() -> None:
    with pytest.raises(NsharnessError, match=r"preset python.*pip config set"):
        filled(load("python"), Found())


def test_a_registrys_credential_is_not_sent_without_tls() -> None:
    plain = Registry("pkg.example.com", scheme="http", url="http://pkg.example.com/", credential=True)
    with pytest.raises(NsharnessError, match="without TLS"):
        filled(load("npm"), Found((plain,)))


# --- together with a profile -------------------------------------------------------------------------------


def test_presets_go_together_and_git_keeps_the_settings_of_both() -> None:
    made = adjusted(Profile(name="test"), additions=[addition(name) for name in names()])
    keys = [made.env[f"GIT_CONFIG_KEY_{number}"] for number in range(int(made.env["GIT_CONFIG_COUNT"]))]
    assert keys == ["credential.https://github.com.helper", "credential.https://gitlab.com.helper"]


def test_what_the_profile_says_stays() -> None:
    own = Profile.model_validate({"name": "p", "env": {"CONFIGURED": "mine", "GIT_CONFIG_COUNT": "1"}})
    made = adjusted(own, additions=[addition("python"), addition("github")])
    assert made.env["CONFIGURED"] == "mine"
    assert made.env["GIT_CONFIG_COUNT"] == "2"
    assert "GIT_CONFIG_KEY_1" in made.env


def test_presets_that_disagree_about_a_variable_are_refused() -> None:
    with pytest.raises(NsharnessError, match=r"presets a and b: each has a value of its own for X"):
        adjusted(Profile(name="p"), additions=[Addition("a", env={"X": "1"}), Addition("b", env={"X": "2"})])


@pytest.mark.parametrize("chosen", [[], ["github"], list(names())])
def test_a_written_profile_is_what_the_presets_add(chosen: list[str]) -> None:
    additions = [addition(name) for name in chosen]
    text = profile_text("p", additions)
    written = parse_profile(text, "nsharness.toml")
    expected = adjusted(Profile(name="p"), additions=additions)
    assert written.sandbox_proxy_rules == expected.sandbox_proxy_rules
    assert written.env == expected.env
    # The same presets once more change nothing.
    assert adjusted(written, additions=additions).sandbox_proxy_rules == written.sandbox_proxy_rules
    assert adjusted(written, additions=additions).env == written.env
    for each in additions:
        for ref in each.secrets:
            assert "nsharness secret set {} --key {}".format(*ref.split(".")) in text
