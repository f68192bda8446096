"""Every way in which the names of one request can agree or not, and what must come of it.

``python -m tests.support.proof_table`` prints the table; tests/proxy/data/proof_table.tsv is that, committed.
The expectation is worked out here from the definition alone, without any code of the program.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterable, Iterator
from dataclasses import astuple, dataclass, fields, replace
from pathlib import Path

TABLE = Path(__file__).resolve().parents[1] / "proxy" / "data" / "proof_table.tsv"

RIGHT, OTHER, ABSENT, NONE = "right", "other", "absent", "-"

HEAD = """\
# Which requests get the credential: all combinations of the names that a request can carry, one a row.
#
# Two hosts are allowed and intercepted (inspect = true): the right one, whose rule injects a header, and
# another one without. Both are mapped: port 80 to plain http, port 443 to TLS with a certificate of theirs.
#
# road     transparent: dialled an address; connect: through a CONNECT tunnel; forward: absolute form
# version  of HTTP inside TLS or the tunnel: 1.1 or 2
# tls      whether the client speaks TLS with the destination
# host     what the right host, and the other one, are: a name, or an ip address (a literal)
# dialled  the address that was dialled: the one of the right host, that of the other one, or (absent) one in
#          198.18.0.0/15 that was issued for no name
# target   of CONNECT
# uri      the authority of the request line in absolute form; absent: origin form
# sni      of the handshake with the destination
# pseudo   :authority
# field    the Host header
#          of each: right, other, absent (it is left out), - (it cannot be there)
# outcome  inject: the right host gets the request with the credential. plain: everything names the other
#          host, which gets the request, and no credential. refuse: neither gets a request; the other host
#          never gets a byte of the credential in any row.
#
# Left out, because nobody can put it on the wire, or it is refused before names are compared:
#   CONNECT without a target, and an IP literal dialled that was never issued (both are no request at all);
#   an absolute URI in HTTP/2, which has :scheme and :authority in its place;
#   an IP literal as SNI (RFC 6066 section 3 forbids it): for these right is no choice, and other is a name;
#   TLS or HTTP/2 with the proxy itself on the forward road, and HTTP/2 without TLS: neither is offered;
#   several Host headers, userinfo, other ports and schemes: tests of their own.
"""


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the table; the columns are explained in ``HEAD``."""

    road: str
    version: str
    tls: str
    host: str
    dialled: str
    target: str
    uri: str
    sni: str
    pseudo: str
    field: str
    outcome: str = ""

    @property
    def claims(self) -> tuple[str, ...]:
        """Everything that names the destination."""
        return (self.dialled, self.target, self.uri, self.sni, self.pseudo, self.field)


def rows() -> Iterator[Row]:
    """The table, in its order."""
    for road, version, tls, host in itertools.product(
        ("transparent", "connect", "forward"), ("1.1", "2"), ("no", "yes"), ("name", "ip")
    ):
        if (version == "2" and tls == "no") or (road == "forward" and (version, tls) != ("1.1", "no")):
            continue
        for claims in itertools.product(*_choices(road, version, tls, host)):
            row = Row(road, version, tls, host, *claims)
            yield replace(row, outcome=outcome(row))


def outcome(row: Row) -> str:
    """What must come of a row: all that is there agrees, and nothing is missing that has to be there."""
    anchor = {"transparent": row.dialled, "connect": row.target, "forward": row.uri}[row.road]
    named = {claim for claim in row.claims if claim in (RIGHT, OTHER)}
    complete = (
        anchor != ABSENT
        # RFC 9112 section 3.2: HTTP/1.1 has a Host header; in HTTP/2 :authority or Host is enough.
        and (row.field != ABSENT or (row.version == "2" and row.pseudo != ABSENT))
        and (row.tls == "no" or row.host == "ip" or row.sni != ABSENT)
    )
    if not complete or len(named) > 1 or (row.host == "ip" and row.sni == OTHER):
        return "refuse"
    return "inject" if named == {RIGHT} else "plain"


def decisive(table: Iterable[Row]) -> list[Row]:
    """The rows of a table in which at most one claim is not right, so that it has to make the difference, and
    those in which everything names the other host. A request has no absolute URI where it need not."""
    kept = []
    for row in table:
        usual = row.road == "forward" or row.uri != RIGHT
        wrong = [c for c in row.claims if c in (OTHER, ABSENT)][row.uri == ABSENT :]
        if (not wrong or (len(wrong) == 1 and usual)) or (set(wrong) == {OTHER} and row.outcome == "plain"):
            kept.append(row)
    return kept


def render(table: Iterable[Row]) -> str:
    """The file's text."""
    lines = ["\t".join(field.name for field in fields(Row)), *("\t".join(astuple(row)) for row in table)]
    return HEAD + "\n".join(lines) + "\n"


def parse(text: str) -> list[Row]:
    """The rows of a file's text."""
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    assert lines[0].split("\t") == [field.name for field in fields(Row)]
    return [Row(*line.split("\t")) for line in lines[1:]]


def _choices(road: str, version: str, tls: str, host: str) -> Iterator[tuple[str, ...]]:
    """What each claim can be, in the order of the columns."""
    any_of = (RIGHT, OTHER, ABSENT)
    yield ((RIGHT, OTHER) if host == "ip" else any_of) if road == "transparent" else (NONE,)
    yield (RIGHT, OTHER) if road == "connect" else (NONE,)
    yield any_of if version == "1.1" else (NONE,)
    yield ((OTHER, ABSENT) if host == "ip" else any_of) if tls == "yes" else (NONE,)
    yield any_of if version == "2" else (NONE,)
    yield any_of


if __name__ == "__main__":
    sys.stdout.write(render(rows()))
