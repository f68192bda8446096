"""The committed table of what the names of a request can be, row by row, over real connections."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.proxy import dnsclient
from tests.proxy.h2client import Http2
from tests.proxy.netns import Gateway
from tests.proxy.rig import DEADLINE, Proxy, credential_map, policy, read_answer, rule, tunnel
from tests.proxy.tlshost import Authority
from tests.proxy.upstreams import Upstream
from tests.support import proof_table
from tests.support.proof_table import ABSENT, NONE, OTHER, RIGHT, Row

HOSTS = {
    "name": {RIGHT: "right.local", OTHER: "other.local"},
    "ip": {RIGHT: "203.0.113.1", OTHER: "203.0.113.2"},
}
NEVER_ISSUED = "198.19.255.254"
ANYWHERE = "192.0.2.1"
ROWS = proof_table.parse(proof_table.TABLE.read_text(encoding="utf-8"))


def _group(row: Row) -> tuple[str, str, str, str]:
    return row.road, row.version, row.tls, row.host


GROUPS = list(dict.fromkeys(map(_group, ROWS)))


class Bench:
    """The right host and the other one, each with and without TLS, and a sandbox that may ask both."""

    def __init__(self, proxy: Proxy, gateway: Gateway, hosts: dict[tuple[str, str], Upstream]) -> None:
        self.proxy, self.gateway, self.hosts = proxy, gateway, hosts
        self._issued: dict[str, str] = {}

    def address(self, row: Row) -> str:
        if row.dialled == ABSENT:
            return NEVER_ISSUED
        host = HOSTS[row.host][row.dialled]
        if row.host == "ip":
            return host
        if host not in self._issued:
            with self.gateway.new_socket(dnsclient.UDP) as client:
                self._issued[host] = dnsclient.ask(client, ("192.0.2.53", 53), host).address
        return self._issued[host]


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory, token: str) -> Iterator[Bench]:
    folder = tmp_path_factory.mktemp("table")
    authority = Authority(folder)
    names = {which: (HOSTS["name"][which], HOSTS["ip"][which]) for which in (RIGHT, OTHER)}
    with ExitStack() as stack:
        hosts: dict[tuple[str, str], Upstream] = {}
        ports: dict[str, int] = {}
        for which, both in names.items():
            hosts[which, "plain"] = stack.enter_context(Upstream())
            for host in both:
                hosts[which, host] = stack.enter_context(Upstream(tls=authority.server(host)))
                ports |= {f"{host}:80": hosts[which, "plain"].port, f"{host}:443": hosts[which, host].port}
        header = {"Authorization": f"Bearer {token}"}
        proxy = stack.enter_context(Proxy(credential_map(dict.fromkeys(names[RIGHT], header))))
        gateway = stack.enter_context(Gateway("table", folder))
        rules = policy(
            rule("right", *names[RIGHT], headers=["Authorization"]),
            rule("other", *names[OTHER], inspect=True),
            upstreams=ports,
        )
        proxy.attach(gateway.sandbox, rules, upstream_ca=authority.pem)
        yield Bench(proxy, gateway, hosts)
        proxy.hang_up()


@pytest.mark.exhaustive
@pytest.mark.kernel("userns", "veth")
@pytest.mark.parametrize("group", GROUPS, ids="-".join)
def test_exactly_the_rows_in_which_all_agree_get_the_credential(
    bench: Bench, token: str, group: tuple[str, str, str, str]
) -> None:
    """K1, K2: every row of the table."""
    _check(bench, token, [row for row in ROWS if _group(row) == group])


@pytest.mark.kernel("userns", "veth")
def test_each_name_that_differs_or_is_missing_costs_the_credential(bench: Bench, token: str) -> None:
    """The same for a part of the table, in which every road has every way to go wrong in one place."""
    _check(bench, token, proof_table.decisive(ROWS))


def _check(bench: Bench, token: str, rows: list[Row]) -> None:
    """Exactly the rows in which all names agree get the credential, and no other row gets anything of it."""
    assert rows
    expected = {number: row.outcome for number, row in enumerate(rows)}
    for host in bench.hosts.values():
        host.requests.clear()
        host.received.clear()
    for number, row in enumerate(rows):
        _attempt(bench, row, f"/row-{number}")
    got = {number: _outcome(bench, f"/row-{number}", token) for number in expected}
    wrong = {number: (rows[number], got[number]) for number in expected if got[number] != expected[number]}
    assert not wrong
    injected = sum(outcome == "inject" for outcome in expected.values())
    received = dict.fromkeys((RIGHT, OTHER), b"")
    for (which, _), host in bench.hosts.items():
        host.hang_up()
        received[which] += bytes(host.received)
    assert received[RIGHT].count(token.encode()) == injected
    assert token.encode() not in received[OTHER]


def test_the_table_has_rows_of_every_outcome() -> None:
    assert {row.outcome for row in ROWS} == {"inject", "plain", "refuse"}


def _outcome(bench: Bench, path: str, token: str) -> str:
    """What the hosts saw of the request with that path."""
    seen = [
        (which, request)
        for (which, _), host in bench.hosts.items()
        for request in host.requests
        if request.line == f"GET {path} HTTP/1.1"
    ]
    if not seen:
        return "refuse"
    ((which, request),) = seen
    if which == OTHER:
        return "plain"
    return "inject" if request.all("Authorization") == [f"Bearer {token}"] else "without"


def _attempt(bench: Bench, row: Row, path: str) -> None:
    """One request, on a connection of its own, as the row says."""
    hosts = HOSTS[row.host]
    port = 443 if row.tls == "yes" else 80
    if row.road == "transparent":
        client = bench.gateway.dial(bench.address(row), port)
    else:
        client = bench.gateway.dial(ANYWHERE, 3128)
    with client:
        client.settimeout(DEADLINE)
        try:
            if row.road == "connect":
                assert tunnel(client, f"{hosts[row.target]}:{port}").status == 200
            if row.tls == "no":
                client.sendall(_http1(row, path))
                read_answer(client)
                return
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
            context.set_alpn_protocols(["http/1.1" if row.version == "1.1" else "h2"])
            # For a literal as host there is no right SNI: another one is a name.
            sni = None if row.sni == ABSENT else (HOSTS["name"] if row.host == "ip" else hosts)[row.sni]
            with context.wrap_socket(client, server_hostname=sni) as secured:
                if row.version == "1.1":
                    assert secured.selected_alpn_protocol() == "http/1.1"
                    secured.sendall(_http1(row, path))
                    read_answer(secured)
                else:
                    assert secured.selected_alpn_protocol() == "h2"
                    Http2(secured).ask(_http2(row, path))
        except (OSError, ssl.SSLError):
            # Some rows are refused before there is HTTP.
            assert row.outcome == "refuse", row


def _http1(row: Row, path: str) -> bytes:
    hosts = HOSTS[row.host]
    scheme = "https" if row.tls == "yes" else "http"
    target = path if row.uri in (ABSENT, NONE) else f"{scheme}://{hosts[row.uri]}{path}"
    field = "" if row.field == ABSENT else f"Host: {hosts[row.field]}\r\n"
    return f"GET {target} HTTP/1.1\r\n{field}\r\n".encode()


def _http2(row: Row, path: str) -> list[tuple[str, str]]:
    hosts = HOSTS[row.host]
    headers = [(":method", "GET"), (":scheme", "https"), (":path", path)]
    headers += [(":authority", hosts[row.pseudo])] if row.pseudo != ABSENT else []
    headers += [("host", hosts[row.field])] if row.field != ABSENT else []
    return headers
