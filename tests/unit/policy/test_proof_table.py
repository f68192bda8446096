"""The committed table of all combinations of names, and that proofs exist for exactly the right rows."""

from __future__ import annotations

import dataclasses

import pytest

from nsharness.policy.authority import Claims
from nsharness.policy.hosts import HostPattern, is_ip
from nsharness.policy.model import Policy, Rule
from nsharness.policy.names import NameTable
from nsharness.policy.proof import MappedAddress, Proof, ProofError, Upstream, VerifiedCertificate, prove
from nsharness.policy.request import RequestView
from tests.support.proof_table import ABSENT, NONE, OTHER, RIGHT, TABLE, Row, parse, render, rows

HOSTS = {("name", RIGHT): "wiki.local", ("name", OTHER): "other.local"} | {
    ("ip", RIGHT): "192.0.2.7",
    ("ip", OTHER): "192.0.2.8",
}
RULES = (
    Rule("wiki", tuple(HostPattern.parse(HOSTS[kind, RIGHT]) for kind in ("name", "ip")), ("Authorization",)),
    Rule("other", tuple(HostPattern.parse(HOSTS[kind, OTHER]) for kind in ("name", "ip")), inspect=True),
)
MAPPED = {f"{host}:{port}": ("127.0.0.1", 4242) for host in HOSTS.values() for port in (80, 443)}
POLICY = Policy("p", RULES, MAPPED)


def _names() -> NameTable:
    table = NameTable()
    for name in ("wiki.local", "other.local"):
        table.address_of(name)
    return table


def _claims(row: Row) -> tuple[Claims, RequestView]:
    """A row as claims, and the request as a proxy would see it that decides on where the road leads."""
    port = 443 if row.tls == "yes" else 80

    def named(choice: str) -> str | None:
        # Where the host is an address, another name in SNI is that of the other host.
        return None if choice in (ABSENT, NONE) else HOSTS[row.host, choice]

    def target(choice: str) -> str | None:
        return None if named(choice) is None else f"{named(choice)}:{port}"

    dialled: tuple[str, int] | None = None
    issued: str | None = None
    if row.road == "transparent":
        host = named(row.dialled)
        address = "198.18.9.9" if host is None else host if is_ip(host) else _names().address_of(host)
        dialled, issued = (address, port), _names().name_of(address)
    claims = Claims(
        row.road,  # type: ignore[arg-type]
        issued_name=issued,
        dialled=dialled,
        connect_target=target(row.target),
        absolute_uri_authority=named(row.uri),
        sni=HOSTS["name", row.sni] if row.sni in (RIGHT, OTHER) else None,
        authority_header=named(row.pseudo),
        host_headers=tuple(filter(None, (named(row.field),))),
        tls=row.tls == "yes",
    )
    leads = {"transparent": row.dialled, "connect": row.target, "forward": row.uri}[row.road]
    host = named(leads) or HOSTS[row.host, RIGHT]
    return claims, RequestView("GET", "https" if claims.tls else "http", host, port, "/")


def test_the_committed_table_is_what_its_definition_says() -> None:
    assert TABLE.read_text(encoding="utf-8") == render(rows())


def test_the_table_is_complete_and_tells_something() -> None:
    table = parse(TABLE.read_text(encoding="utf-8"))
    assert table == list(rows())
    assert len({dataclasses.replace(row, outcome="") for row in table}) == len(table)
    outcomes = [row.outcome for row in table]
    assert set(outcomes) == {"inject", "plain", "refuse"}
    for row in table:
        named = [claim for claim in row.claims if claim in (RIGHT, OTHER)]
        if row.outcome != "refuse":
            assert set(named) == {RIGHT if row.outcome == "inject" else OTHER}, row
    assert {(row.road, row.version, row.tls, row.host) for row in table if row.outcome == "inject"} == {
        (row.road, row.version, row.tls, row.host) for row in table
    }


def _prove(row: Row) -> Proof:
    claims, request = _claims(row)
    upstream: Upstream = MappedAddress("127.0.0.1", 4242)
    if claims.tls:
        upstream = VerifiedCertificate(request.host, "127.0.0.1")
    return prove(
        sandbox="s",
        claims=claims,
        names=_names(),
        policy=POLICY,
        request=request,
        upstream=upstream,
        secret_version="v",
    )


@pytest.mark.parametrize("row", list(rows()), ids=lambda row: "-".join(dataclasses.astuple(row)))
def test_exactly_the_rows_where_all_agree_have_a_proof(row: Row) -> None:
    """K1, K2."""
    if row.outcome == "inject":
        assert _prove(row).headers == ("Authorization",)
        return
    with pytest.raises(ProofError) as caught:
        _prove(row)
    # Where everything names the other host there is no mistake, only nothing to inject.
    assert (caught.value.why == "it entitles to no secret") == (row.outcome == "plain")
    assert caught.value.field == ("rule" if row.outcome == "plain" else "authority")
