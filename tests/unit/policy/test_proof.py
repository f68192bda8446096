"""Only what agrees in every field is a proof, and only a proof opens the credential map."""

from __future__ import annotations

import copy
import dataclasses
import json
import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsharness.credentials.map import CredentialMap
from nsharness.credentials.secret import Secret
from nsharness.policy import proof as proofs
from nsharness.policy.authority import Authority, Claims
from nsharness.policy.hosts import HostPattern
from nsharness.policy.model import Policy, Rule
from nsharness.policy.names import NameTable
from nsharness.policy.proof import (
    Connect,
    Forward,
    MappedAddress,
    Proof,
    ProofError,
    Transparent,
    VerifiedCertificate,
    prove,
)
from nsharness.policy.request import RequestView

TOKEN = "wiki_hunter22222222"
HOSTS = ("wiki.local", "other.local", "192.0.2.7", "192.0.2.8")
RULES = (
    Rule(
        "wiki",
        (HostPattern.parse("wiki.local"), HostPattern.parse("192.0.2.7")),
        ("Authorization",),
        secrets=("wiki.token",),
        placeholders=frozenset({"header"}),
    ),
    Rule("other", (HostPattern.parse("other.local"), HostPattern.parse("192.0.2.8")), inspect=True),
)
POLICY = Policy("p", RULES, {f"{host}:80": ("127.0.0.1", 4242) for host in HOSTS})
CREDENTIALS = CredentialMap(
    {
        host: {"Authorization": Secret(f"Bearer {TOKEN}"), "X-Other": Secret(TOKEN)}
        for host in ("wiki.local", "192.0.2.7")
    },
    secrets={"wiki.token": Secret(TOKEN)},
    entitled={"wiki.local": ("wiki.token",)},
    version="v1",
)


def _names() -> NameTable:
    table = NameTable()
    for name in ("wiki.local", "other.local"):
        table.address_of(name)
    return table


def _facts(**changes: Any) -> dict[str, Any]:
    """What is known of a request over TLS through a CONNECT tunnel, all of it right."""
    claims = Claims(
        "connect", connect_target="wiki.local:443", sni="wiki.local", host_headers=("wiki.local",), tls=True
    )
    return {
        "sandbox": "s",
        "claims": claims,
        "names": _names(),
        "policy": POLICY,
        "request": RequestView("GET", "https", "wiki.local", 443, "/"),
        "upstream": VerifiedCertificate("wiki.local", "93.184.216.34"),
        "secret_version": "v1",
        **changes,
    }


def _plain(**changes: Any) -> dict[str, Any]:
    """The same for a transparent connection without TLS, to a mapped host."""
    facts = {
        "claims": Claims(
            "transparent",
            issued_name="wiki.local",
            dialled=("198.18.0.1", 80),
            host_headers=("wiki.local",),
        ),
        "request": RequestView("GET", "http", "wiki.local", 80, "/"),
        "upstream": MappedAddress("127.0.0.1", 4242),
    }
    return _facts(**{**facts, **changes})


def _field(**facts: Any) -> str:
    """The field that a refusal names."""
    with pytest.raises(ProofError) as caught:
        prove(**facts)
    assert TOKEN not in str(caught.value)
    assert caught.value.field in str(caught.value)
    return caught.value.field


def test_where_everything_agrees_there_is_a_proof_and_it_opens_the_map() -> None:
    proof = prove(**_facts())
    assert proof.road == Connect("wiki.local:443")
    assert proof.authority == Authority("wiki.local", 443)
    assert CREDENTIALS.reveal(proof, "authorization") == f"Bearer {TOKEN}"
    assert prove(**_plain()).road == Transparent("198.18.0.1", 80, "wiki.local")


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"sandbox": ""}, "sandbox"),
        ({"secret_version": ""}, "secret_version"),
        ({"request": RequestView("GET", "https", "other.local", 443, "/")}, "authority"),
        ({"request": RequestView("GET", "https", "wiki.local", 8443, "/")}, "authority"),
        ({"request": RequestView("GET", "http", "wiki.local", 443, "/")}, "authority"),
        ({"request": RequestView("TRACE", "https", "wiki.local", 443, "/")}, "rule"),
        ({"policy": Policy("p")}, "rule"),
        ({"policy": Policy("p", (Rule("open", RULES[0].hosts),))}, "rule"),
        ({"policy": Policy("p", (*RULES, Rule("no", RULES[0].hosts, deny=True)))}, "rule"),
        ({"upstream": VerifiedCertificate("other.local", "93.184.216.34")}, "upstream"),
        ({"upstream": VerifiedCertificate("local", "93.184.216.34")}, "upstream"),
        ({"upstream": VerifiedCertificate("", "93.184.216.34")}, "upstream"),
        ({"upstream": VerifiedCertificate("wiki.local", "127.0.0.1")}, "upstream"),
        ({"upstream": VerifiedCertificate("wiki.local", "169.254.169.254")}, "upstream"),
        ({"upstream": VerifiedCertificate("wiki.local", "wiki.local")}, "upstream"),
        ({"upstream": MappedAddress("127.0.0.1", 4242)}, "upstream"),
    ],
    ids=str,
)
def test_a_field_that_disagrees_is_named(changes: dict[str, Any], field: str) -> None:
    """K1, K9."""
    assert _field(**_facts(**changes)) == field


@pytest.mark.parametrize(
    "upstream",
    [
        MappedAddress("127.0.0.1", 4243),
        MappedAddress("127.0.0.2", 4242),
        MappedAddress("93.184.216.34", 80),
        VerifiedCertificate("wiki.local", "127.0.0.1"),
        VerifiedCertificate("wiki.local", "93.184.216.34"),
    ],
    ids=str,
)
def test_without_tls_only_the_mapped_address_will_do(upstream: proofs.Upstream) -> None:
    """K9."""
    assert _field(**_plain(upstream=upstream)) == "upstream"
    remote = dataclasses.replace(POLICY, upstreams={"wiki.local:80": ("93.184.216.34", 80)})
    assert _field(**_plain(upstream=MappedAddress("93.184.216.34", 80), policy=remote)) == "rule"


def test_a_mapped_host_with_tls_is_verified_at_the_mapped_address() -> None:
    policy = Policy("p", RULES, {"wiki.local:443": ("127.0.0.1", 8443)})
    upstream = VerifiedCertificate("wiki.local", "127.0.0.1")
    assert prove(**_facts(policy=policy, upstream=upstream)).upstream == upstream
    assert _field(**_facts(policy=policy)) == "upstream"


def test_an_ip_literal_is_connected_to_at_itself() -> None:
    rule = dataclasses.replace(RULES[0], hosts=(HostPattern.parse("93.184.216.34"),))
    claims = Claims("transparent", dialled=("93.184.216.34", 443), host_headers=("93.184.216.34",), tls=True)
    facts = _facts(
        policy=Policy("p", (rule,)),
        claims=claims,
        request=RequestView("GET", "https", "93.184.216.34", 443, "/"),
        upstream=VerifiedCertificate("93.184.216.34", "93.184.216.34"),
    )
    proof = prove(**facts)
    assert proof.sni is None
    assert proof.road == Transparent("93.184.216.34", 443, None)
    other = VerifiedCertificate("93.184.216.34", "93.184.216.35")
    assert _field(**{**facts, "upstream": other}) == "upstream"


def test_the_name_of_an_address_is_what_the_sandbox_own_table_says() -> None:
    """A name that only the claims know is a claim."""
    assert _field(**_plain(names=NameTable())) == "road"
    table = NameTable()
    table.address_of("other.local")
    assert _field(**_plain(names=table)) == "road"


# Each proof's field, changed alone: what the fields say about each other catches it without the facts.
_WRONG: tuple[tuple[str, Any, str], ...] = (
    ("token", "forged", "token"),
    ("token", None, "token"),
    ("sandbox", "", "sandbox"),
    ("rule", "", "rule"),
    ("secret_version", "", "secret_version"),
    ("road", Connect("other.local:443"), "road"),
    ("road", Connect("wiki.local:80"), "road"),
    ("road", Connect("wiki.local"), "road"),
    ("road", Connect(""), "road"),
    ("road", Connect("x@wiki.local:443"), "road"),
    ("road", Forward("http://wiki.local:443"), "road"),
    ("road", Forward("https://wiki.local"), "road"),
    ("road", Transparent("198.18.0.1", 443, "other.local"), "road"),
    ("road", Transparent("198.18.0.1", 443, None), "road"),
    ("road", Transparent("198.18.0.1", 80, "wiki.local"), "road"),
    ("road", Transparent("192.0.2.7", 443, "wiki.local"), "road"),
    ("road", Transparent("192.0.2.7", 443, None), "road"),
    ("road", Transparent("wiki.local", 443, "wiki.local"), "road"),
    ("tls", False, "sni"),
    ("sni", None, "sni"),
    ("sni", "other.local", "sni"),
    ("sni", "WIKI.local", "sni"),
    ("authority", Authority("other.local", 443), "road"),
    ("authority", Authority("wiki.local", 80), "road"),
    ("upstream", VerifiedCertificate("other.local", "93.184.216.34"), "upstream"),
    ("upstream", MappedAddress("127.0.0.1", 1), "upstream"),
    ("pattern", "other.local", "pattern"),
    ("pattern", "*.wiki.local", "pattern"),
    ("pattern", "*", "pattern"),
)


def _parts(proof: Proof) -> dict[str, Any]:
    fields = [field.name for field in dataclasses.fields(Proof)]
    return {**{name: getattr(proof, name) for name in fields}, "token": proofs._TOKEN}


@pytest.mark.parametrize(("name", "value", "field"), _WRONG, ids=str)
def test_a_proof_with_one_wrong_field_cannot_even_be_made_by_hand(
    name: str, value: object, field: str
) -> None:
    parts = _parts(prove(**_facts()))
    Proof(**parts)
    with pytest.raises(ProofError) as caught:
        Proof(**{**parts, name: value})
    assert caught.value.field == field


def test_without_tls_the_fields_agree_differently() -> None:
    parts = _parts(prove(**_plain()))
    for name, value, field in (
        ("tls", True, "sni"),
        ("sni", "wiki.local", "sni"),
        ("road", Forward("https://wiki.local"), "road"),
        ("road", Forward("wiki.local"), "road"),
        ("upstream", MappedAddress("93.184.216.34", 80), "upstream"),
        ("upstream", MappedAddress("nowhere", 80), "upstream"),
        ("upstream", VerifiedCertificate("wiki.local", "93.184.216.34"), "upstream"),
    ):
        with pytest.raises(ProofError) as caught:
            Proof(**{**parts, name: value})
        assert caught.value.field == field
    Proof(**{**parts, "road": Forward("http://wiki.local")})
    with pytest.raises(ProofError, match="entitles"):
        Proof(**{**parts, "headers": (), "secrets": ()})


def test_a_proof_neither_changes_nor_multiplies_nor_travels() -> None:
    proof = prove(**_facts())
    parts = _parts(proof)
    del parts["token"]
    with pytest.raises(TypeError):
        Proof(**parts)
    with pytest.raises((TypeError, ValueError)):
        dataclasses.replace(proof, rule="other")  # type: ignore[call-arg]
    with pytest.raises(dataclasses.FrozenInstanceError):
        proof.rule = "other"  # type: ignore[misc]
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        with pytest.raises(TypeError):
            pickle.dumps(proof, protocol)
    with pytest.raises(TypeError):
        type("Forged", (Proof,), {})
    assert copy.copy(proof) is copy.deepcopy(proof) is proof


def test_the_audit_form_has_every_field_and_no_value() -> None:
    for facts in (_facts(), _plain()):
        proof = prove(**facts)
        audit = proof.to_audit()
        assert set(audit) == {field.name for field in dataclasses.fields(Proof)}
        text = json.dumps(audit)
        assert json.loads(text) == audit
        assert TOKEN not in text + repr(proof)
    assert prove(**_facts()).to_audit()["road"] == {"kind": "connect", "target": "wiki.local:443"}
    assert prove(**_plain()).to_audit()["upstream"] == {
        "kind": "mapped-address",
        "address": "127.0.0.1",
        "port": 4242,
    }


def test_the_map_opens_to_a_proof_of_its_own_version_and_header_only() -> None:
    """K30."""
    proof = prove(**_facts())
    values: dict[str, dict[str, Secret]] = {"wiki.local": {"Authorization": Secret("y" * 9)}}
    other = CredentialMap(values)
    for wrong_map, header, field in (
        (other, "Authorization", "secret_version"),
        (CREDENTIALS, "X-Key", "headers"),
        (CREDENTIALS, "X-Other", "headers"),
        (CredentialMap({}, version="v1"), "Authorization", "headers"),
    ):
        with pytest.raises(ProofError) as caught:
            wrong_map.reveal(proof, header)
        assert caught.value.field == field
    for forged in (None, "wiki", object(), dict(_parts(proof))):
        with pytest.raises(ProofError):
            CREDENTIALS.reveal(forged, "Authorization")  # type: ignore[arg-type]
    assert other.version != CredentialMap(values).version
    assert len(other.version) >= 16


def test_placeholders_become_what_rule_and_map_both_entitle_to() -> None:
    """K18."""
    proof = prove(**_facts())
    assert CREDENTIALS.placeholder_secrets(proof) == {"wiki.token": Secret(TOKEN)}
    ip = dataclasses.replace(POLICY, upstreams={"192.0.2.7:443": ("127.0.0.1", 1)})
    unentitled = prove(
        **_facts(
            policy=ip,
            claims=Claims("connect", connect_target="192.0.2.7:443", host_headers=("192.0.2.7",), tls=True),
            request=RequestView("GET", "https", "192.0.2.7", 443, "/"),
            upstream=VerifiedCertificate("192.0.2.7", "127.0.0.1"),
        )
    )
    with pytest.raises(ProofError) as caught:
        CREDENTIALS.placeholder_secrets(unentitled)
    assert caught.value.field == "secrets"
    with pytest.raises(ProofError):
        CredentialMap({}).placeholder_secrets(proof)


# However a proof is put together, what it opens goes to the host that the rule names.


@given(
    st.sampled_from([Connect("wiki.local:443"), Connect("other.local:443"), Forward("http://wiki.local")])
    | st.builds(
        Transparent,
        st.sampled_from(["198.18.0.1", "198.18.0.2", "192.0.2.7"]),
        st.sampled_from([80, 443]),
        st.sampled_from([None, "wiki.local", "other.local"]),
    ),
    st.booleans(),
    st.sampled_from([None, "wiki.local", "other.local"]),
    st.builds(
        Authority, st.sampled_from(["wiki.local", "other.local", "192.0.2.7"]), st.sampled_from([80, 443])
    ),
    st.builds(VerifiedCertificate, st.sampled_from(["wiki.local", "other.local"]), st.just("93.184.216.34"))
    | st.builds(MappedAddress, st.sampled_from(["127.0.0.1", "93.184.216.34"]), st.just(1)),
    st.sampled_from(["wiki.local", "other.local", "*.local.example"]),
)
def test_the_fields_of_a_proof_all_name_one_host(
    road: proofs.Road,
    tls: bool,
    sni: str | None,
    authority: Authority,
    upstream: proofs.Upstream,
    pattern: str,
) -> None:
    rest = {
        "sandbox": "s",
        "rule": "r",
        "headers": ("A",),
        "secrets": (),
        "certificate": False,
        "secret_version": "v",
    }
    try:
        Proof(
            road=road,
            tls=tls,
            sni=sni,
            authority=authority,
            upstream=upstream,
            pattern=pattern,
            token=proofs._TOKEN,
            **rest,  # type: ignore[arg-type]
        )
    except ProofError:
        return
    host = authority.host
    if isinstance(road, Transparent):
        assert (road.name or road.issued_address) == host
        assert road.issued_address.startswith("198.18.") == (road.name is not None)
    else:
        assert host in (road.target if isinstance(road, Connect) else road.absolute_uri)
    assert pattern == host
    assert (sni == host) if tls else sni is None
    assert upstream == (VerifiedCertificate(host, "93.184.216.34") if tls else MappedAddress("127.0.0.1", 1))
