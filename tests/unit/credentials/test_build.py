"""From rules and templates to the credential map."""

from __future__ import annotations

import json
import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsharness.credentials.build import (
    Binding,
    CredentialMap,
    bindings_of,
    build,
    build_credential_map,
    check_bindings,
    check_header_name,
)
from nsharness.credentials.secret import Secret, SecretNotFoundError, SecretRef
from nsharness.errors import NsharnessError
from nsharness.policy.profile import Profile
from tests.support.certificates import certificate_proof

TOKEN = "wiki_hunter22222222"


class Secrets:
    """A store in memory."""

    def __init__(self, **values: str) -> None:
        self._values = values

    def get(self, name: str, key: str) -> Secret:
        try:
            return Secret(self._values[f"{name}_{key}"])
        except KeyError:
            raise SecretNotFoundError(SecretRef(name, key), why="there is no such secret") from None


STORE = Secrets(wiki_token=TOKEN, basic_pair="hunter3:xyz", unicode_key="é" * 9)


def _profile(**headers: str) -> Profile:
    rule = {"name": "wiki", "hosts": ["WIKI.local", "*.docs.example"], "headers": headers}
    return Profile.model_validate({"name": "p", "sandbox_proxy_rules": [rule]})


def _binding(**changes: Any) -> Binding:
    values = {"rule": "wiki", "hosts": ("wiki.local",), "header": "Authorization"}
    return Binding(**{**values, "template": "Bearer {{ wiki.token }}", **changes})


def test_a_profile_becomes_a_map_of_hosts_to_headers() -> None:
    profile = _profile(Authorization="Bearer {{ wiki.token }}", Accept="text/plain")
    credentials = build_credential_map(profile, STORE)
    assert credentials.hosts == ("wiki.local", "*.docs.example")
    assert credentials.header_names() == {host: ["Authorization", "Accept"] for host in credentials.hosts}
    for host in credentials.hosts:
        value = credentials._value(host, "authorization")
        assert value is not None
        assert value.reveal() == f"Bearer {TOKEN}"
    assert credentials._value("wiki.local", "Cookie") is None
    assert credentials._value("a.docs.example", "Authorization") is None
    # What must not come back: the secret and the header with it; the other header is public.
    assert [secret.reveal() for secret in credentials.secrets()] == [TOKEN, f"Bearer {TOKEN}"]


def test_the_hosts_of_the_map_are_the_patterns_of_the_policy() -> None:
    """K8: one table drives deciding and injecting."""
    profile = _profile(Authorization="Bearer {{ wiki.token }}")
    patterns = {str(pattern) for rule in profile.to_policy().rules for pattern in rule.hosts}
    assert set(build_credential_map(profile, STORE).hosts) == patterns


def test_a_map_shows_names_and_no_value() -> None:
    credentials = build([_binding()], STORE)
    assert repr(credentials) == "CredentialMap({'wiki.local': ['Authorization']})"
    assert "hunter" not in f"{credentials} {credentials!r} {vars(CredentialMap)}"


def test_a_map_comes_back_equal_from_its_bytes() -> None:
    credentials = build([_binding(), _binding(hosts=("a.example",), header="X-Key")], STORE)
    again = CredentialMap.from_bytes(credentials.to_bytes())
    assert again == credentials
    assert again.header_names() == credentials.header_names()
    assert again.version == credentials.version
    assert credentials != build([_binding()], STORE)
    plain = json.loads(credentials.to_bytes())
    assert plain["hosts"]["wiki.local"] == {"Authorization": f"Bearer {TOKEN}"}
    assert plain["secrets"] == {"wiki.token": TOKEN}


def _map(**sections: Any) -> bytes:
    empty: dict[str, Any] = {"version": "v", "hosts": {}, "secrets": {}, "entitled": {}, "certificates": {}}
    return json.dumps({**empty, **sections}).encode()


def test_a_map_without_anything_is_one() -> None:
    assert CredentialMap.from_bytes(_map()) == CredentialMap({}, version="v")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"{",
        b"\xff",
        b'"hunter"',
        b'{"a.b": {"X": "hunter"}}',
        _map(hosts={"*": {"X": "hunter"}}),
        _map(hosts={"a.b": ["hunter"]}),
        _map(hosts={"a.b": {"X": 1}}),
        _map(version=""),
        _map(version=1),
        _map(secrets={"hunter": "hunter"}),
        _map(entitled={"a.b": ["hunter.key"]}),
        _map(certificates={"a.b": {"chain": "hunter"}}),
        _map(certificates={"a.b": {"chain": "hunter", "key": "hunter"}}),
        _map(more="hunter"),
    ],
)
def test_bytes_that_are_no_map_are_refused_without_being_quoted(content: bytes) -> None:
    with pytest.raises(ValueError, match="malformed") as caught:
        CredentialMap.from_bytes(content)
    assert "hunter" not in str(caught.value)
    assert caught.value.__context__ is None


def _refused(*bindings: Binding) -> str:
    with pytest.raises(NsharnessError) as caught:
        build(bindings, STORE)
    message = str(caught.value)
    assert "\n" not in message
    assert "hunter" not in message
    return message


def test_a_missing_secret_is_named_with_its_rule_and_the_remedy() -> None:
    message = _refused(_binding(template="Bearer {{ github.pat }}"))
    for text in ("rule wiki", "Authorization", "github.pat", "nsharness secret set github --key pat"):
        assert text in message


def test_a_bad_template_or_host_names_the_rule() -> None:
    """These reach the resolver only when the supervisor was made to send them."""
    assert "rule wiki, header Authorization" in _refused(_binding(template="{{ wiki }}"))
    assert "rule wiki" in _refused(_binding(hosts=("http://wiki.local",)))
    assert "rule wiki" in _refused(_binding(hosts=("*",)))
    assert "rule wiki" in _refused(_binding(header="Host"))


def test_a_value_that_no_header_may_have_is_refused_without_being_quoted() -> None:
    message = _refused(_binding(template="{{ unicode.key }}"))
    assert "rule wiki" in message
    assert "unicode.key" in message
    assert "é" not in message


def test_several_references_in_one_value() -> None:
    credentials = build([_binding(template="{{ wiki.token }}:{{ basic.pair }}")], STORE)
    value = credentials._value("wiki.local", "Authorization")
    assert value is not None
    assert value.reveal() == f"{TOKEN}:hunter3:xyz"


def test_a_host_and_header_bound_twice_to_different_templates_are_an_error() -> None:
    same = _binding(rule="other", template="Bearer {{wiki.token}}")
    check_bindings([_binding(), same])
    cases: tuple[dict[str, Any], ...] = (
        {"template": "x"},
        {"template": "x", "hosts": ("a.example", "Wiki.Local.")},
        {"header": "authorization"},
    )
    for changes in cases:
        message = _refused(_binding(), _binding(rule="other", **changes))
        assert "rules wiki and other" in message
        assert "wiki.local" in message


names = st.text("abcXYZ-_!09", min_size=1, max_size=10)


@given(names, st.booleans())
def test_header_names_are_tokens_that_frame_nothing(name: str, upper: bool) -> None:
    check_header_name(name)
    for wrong in (
        "Host",
        "Content-Length",
        "Transfer-Encoding",
        "Connection",
        "Upgrade",
        "TE",
        f"Proxy-{name}",
    ):
        with pytest.raises(ValueError, match="cannot be injected"):
            check_header_name(wrong.upper() if upper else wrong)
    for character in ':\r\n \0é("':
        with pytest.raises(ValueError, match="token"):
            check_header_name(name + character)


def test_bindings_travel_as_json() -> None:
    for binding in bindings_of(_profile(Authorization="Bearer {{ wiki.token }}", Accept="x")):
        assert Binding.from_json(json.loads(json.dumps(binding.to_json()))) == binding
    for wrong in (
        None,
        {},
        {**_binding().to_json(), "more": 1},
        {**_binding().to_json(), "hosts": "wiki.local"},
        {**_binding().to_json(), "kind": "other"},
        {**_binding(header="").to_json(), "kind": "other"},
        {**_binding().to_json(), "kind": "placeholder"},
        {**_binding().to_json(), "header": ""},
        {**_binding(header="", kind="client-key").to_json(), "kind": "header"},
    ):
        with pytest.raises(ValueError, match="binding"):
            Binding.from_json(wrong)


PEM = "-----BEGIN {0}----- aGVsbG8= -----END {0}----- "
LABELS = ("CERTIFICATE", "PRIVATE KEY")


def test_a_certificate_and_its_key_travel_like_headers() -> None:
    # As the documented ``tr`` leaves them: with a space at the end.
    store = Secrets(corp_cert=f"{PEM.format(LABELS[0]).strip()} ", corp_key=PEM.format(LABELS[1]).strip())
    bindings = (
        _binding(header="", template="{{ corp.cert }}", kind="client-certificate"),
        _binding(header="", template="{{ corp.key }}", kind="client-key"),
    )
    made = CredentialMap.from_bytes(build(bindings, store).to_bytes())
    assert made.has_certificate("wiki.local")
    assert not made.has_certificate("other.local")
    certificate = made.client_certificate(certificate_proof("wiki.local", made.version))
    assert certificate.key_pem().splitlines() == [
        "-----BEGIN PRIVATE KEY-----",
        "aGVsbG8=",
        "-----END PRIVATE KEY-----",
    ]
    assert (made.hosts, made.header_names()) == (("wiki.local",), {"wiki.local": []})
    # The key is never sent, so nothing need be looked for that looks like it.
    assert list(made.secrets()) == []
    for wrong in (
        bindings[:1],
        bindings[1:],
        (bindings[0], _binding(header="", kind="client-key", template="{{ corp.cert }}")),
    ):
        with pytest.raises(NsharnessError, match=r"client certificate of wiki\.local") as caught:
            build(wrong, store)
        assert "aGVsbG8" not in str(caught.value)


def test_secrets_for_placeholders_are_bound_to_their_hosts() -> None:
    """K18."""
    binding = _binding(header="", template="{{ wiki.token }}", kind="placeholder")
    made = CredentialMap.from_bytes(build([binding, _binding(hosts=("a.example",))], STORE).to_bytes())
    assert made == CredentialMap.from_bytes(made.to_bytes())
    assert made.hosts == ("a.example", "wiki.local")
    assert json.loads(made.to_bytes())["entitled"] == {"wiki.local": ["wiki.token"]}
    assert [secret.reveal() for secret in made.secrets()] == [TOKEN, f"Bearer {TOKEN}"]
    assert made.kinds().keys() == {"wiki.token"}
    assert TOKEN not in str(made.kinds())
    with pytest.raises(ValueError, match="not there"):
        CredentialMap({}, entitled={"wiki.local": ["wiki.token"]})
    message = _refused(_binding(header="", template="{{ github.pat }}", kind="placeholder"))
    assert "rule wiki, placeholder" in message
    for template in ("x", "{{ wiki.token }}x", "{{ wiki.token }}{{ wiki.token }}"):
        assert "single reference" in _refused(_binding(header="", template=template, kind="placeholder"))


def test_a_map_made_of_headers_alone_hides_them_all() -> None:
    credentials = CredentialMap({"a.b": {"X": Secret("x" * 9), "Y": Secret("x" * 9)}})
    assert list(credentials.secrets()) == [Secret("x" * 9)]
    with pytest.raises(TypeError):
        pickle.dumps(credentials)
