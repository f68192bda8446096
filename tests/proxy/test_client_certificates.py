"""Client certificates towards hosts: shown to those of their rule, for its requests, and to nobody else."""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from nsharness.credentials.map import ClientCertificate, CredentialMap
from nsharness.credentials.secret import Secret
from nsharness.linux import fds
from nsharness.policy.model import Policy
from nsharness_proxy import ca
from tests.proxy.rig import Answer, Proxy, Sandbox, policy, read_answer, rule, tunnel
from tests.proxy.tlshost import Authority
from tests.proxy.upstreams import Upstream
from tests.support import leaks
from tests.support.certificates import Client


@pytest.fixture(scope="module")
def client() -> Client:
    return Client.create("the sandbox's")


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def demanding(authority: Authority, host: str, client: Client, mode: ssl.VerifyMode) -> ssl.SSLContext:
    context = authority.server(host)
    context.verify_mode = mode
    context.load_verify_locations(cadata=client.root)
    return context


@pytest.fixture
def secure(authority: Authority, client: Client) -> Iterator[Upstream]:
    """A host that serves nobody without a certificate."""
    with Upstream(tls=demanding(authority, "secure.local", client, ssl.CERT_REQUIRED)) as server:
        yield server


@pytest.fixture
def curious(authority: Authority, client: Client) -> Iterator[Upstream]:
    """A host that asks for a certificate and does not mind having none. Its own is for secure.local."""
    with Upstream(tls=demanding(authority, "secure.local", client, ssl.CERT_OPTIONAL)) as server:
        yield server


@pytest.fixture
def attach(
    proxy: Proxy, sandbox: Sandbox, authority: Authority, client: Client
) -> Iterator[Callable[..., None]]:
    made = CredentialMap({}, certificates={"secure.local": client.secrets, "*.more.local": client.secrets})
    credentials = fds.memfd("map", made.to_bytes())

    def attached(rules: Policy, **more: object) -> None:
        proxy.attach(sandbox, rules, credentials, **{"upstream_ca": authority.pem, **more})

    yield attached
    os.close(credentials)


CERTIFIED = rule("certified", "secure.local", "*.more.local", paths=["/mine/*"], client_certificate=True)


def ask(proxy: Proxy, sandbox: Sandbox, host: str, *paths: str) -> list[Answer]:
    """Requests on one connection."""
    with sandbox.connect() as raw:
        assert tunnel(raw, f"{host}:443").status == 200
        with proxy.trust().wrap_socket(raw, server_hostname=host) as secured:
            answers = []
            for path in paths:
                secured.sendall(f"GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
                answers.append(read_answer(secured))
            return answers


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_host_that_demands_one_gets_it_with_its_chain(
    proxy: Proxy, sandbox: Sandbox, attach: Callable[..., None], secure: Upstream, version: ssl.TLSVersion
) -> None:
    assert secure.tls is not None
    secure.tls.maximum_version = version
    attach(policy(CERTIFIED, upstreams={"secure.local:443": secure.port}))
    assert [a.status for a in ask(proxy, sandbox, "secure.local", "/mine/a", "/mine/b")] == [200, 200]
    assert secure.clients == ["the sandbox's"]
    events = [event for event in sandbox.log() if event["action"] == "inject"]
    assert [event["proof"]["certificate"] for event in events] == [True, True]
    assert events[0]["proof"]["upstream"] == {
        "kind": "verified-certificate",
        "name": "secure.local",
        "address": "127.0.0.1",
    }


def test_without_the_rule_the_same_host_serves_nobody(
    proxy: Proxy, sandbox: Sandbox, attach: Callable[..., None], secure: Upstream
) -> None:
    """The attack on the test above: that it passes is the certificate's doing."""
    attach(policy(rule("bare", "secure.local", inspect=True), upstreams={"secure.local:443": secure.port}))
    (answer,) = ask(proxy, sandbox, "secure.local", "/mine/a")
    assert answer.status == 502
    assert not secure.requests


def test_a_key_of_another_certificate_ends_in_an_answer(
    proxy: Proxy, sandbox: Sandbox, authority: Authority, client: Client, curious: Upstream
) -> None:
    chain, key = client.folded[0], Client.create("another").folded[1]
    mixed = ClientCertificate(Secret(chain), Secret(key))
    credentials = fds.memfd("map", CredentialMap({}, certificates={"secure.local": mixed}).to_bytes())
    rules = policy(
        rule("certified", "secure.local", client_certificate=True),
        upstreams={"secure.local:443": curious.port},
    )
    proxy.attach(sandbox, rules, credentials, upstream_ca=authority.pem)
    os.close(credentials)
    (answer,) = ask(proxy, sandbox, "secure.local", "/")
    assert (answer.status, answer.reason) == (502, "upstream-tls-failed")
    assert not curious.requests


def test_another_rule_of_the_same_host_shows_none(
    proxy: Proxy, sandbox: Sandbox, attach: Callable[..., None], curious: Upstream
) -> None:
    """On one client connection, in any order: no connection is shared between the two."""
    rules = policy(CERTIFIED, rule("rest", "secure.local"), upstreams={"secure.local:443": curious.port})
    attach(rules)
    paths = ("/other", "/mine/a", "/other", "/mine/b")
    assert [a.status for a in ask(proxy, sandbox, "secure.local", *paths)] == [200] * 4
    shown = [(r.line.split()[1], curious.clients[r.connection - 1]) for r in curious.requests]
    assert shown == [
        ("/other", None),
        ("/mine/a", "the sandbox's"),
        ("/other", None),
        ("/mine/b", "the sandbox's"),
    ]
    assert curious.accepted == 2


def test_another_host_is_shown_none(
    proxy: Proxy, sandbox: Sandbox, attach: Callable[..., None], authority: Authority, client: Client
) -> None:
    with Upstream(tls=demanding(authority, "other.local", client, ssl.CERT_OPTIONAL)) as other:
        rules = policy(
            CERTIFIED, rule("other", "other.local", inspect=True), upstreams={"other.local:443": other.port}
        )
        attach(rules)
        assert ask(proxy, sandbox, "other.local", "/mine/a")[0].status == 200
        assert other.clients == [None]


@pytest.mark.parametrize("impostor", ["another name", "another authority"])
def test_a_host_that_has_not_proved_itself_is_shown_none(
    proxy: Proxy,
    sandbox: Sandbox,
    attach: Callable[..., None],
    curious: Upstream,
    impostor: str,
) -> None:
    """It is asked for when the host's certificate has been verified, and an impostor's never is."""
    host = "x.more.local" if impostor == "another name" else "secure.local"
    trusted = (
        {}
        if impostor == "another name"
        else {"upstream_ca": ca.CertificateAuthority.create().certificate_pem}
    )
    attach(policy(CERTIFIED, upstreams={f"{host}:443": curious.port}), **trusted)
    (answer,) = ask(proxy, sandbox, host, "/mine/a")
    assert (answer.status, answer.reason) == (502, "upstream-certificate-rejected")
    assert curious.clients in ([], [None])
    assert not curious.requests
    assert not [event for event in sandbox.log() if event["action"] == "inject"]


def test_in_a_tunnel_none_is_shown(
    sandbox: Sandbox, attach: Callable[..., None], curious: Upstream, authority: Authority
) -> None:
    """The host of a certificate is never tunnelled; what is tunnelled is the client's own handshake."""
    attach(policy(CERTIFIED, rule("open", "open.local"), upstreams={"open.local:443": curious.port}))
    trust = ssl.create_default_context(cadata=authority.pem)
    trust.check_hostname = False
    with sandbox.connect() as raw:
        assert tunnel(raw, "open.local:443").status == 200
        with trust.wrap_socket(raw, server_hostname="open.local") as secured:
            secured.sendall(b"GET /mine/a HTTP/1.1\r\nHost: open.local\r\n\r\n")
            assert read_answer(secured).status == 200
    assert curious.clients == [None]


def test_a_map_without_it_sends_no_request(
    proxy: Proxy, sandbox: Sandbox, authority: Authority, curious: Upstream
) -> None:
    """K18, K29: rather none than one without the credential that the profile promises."""
    proxy.attach(
        sandbox, policy(CERTIFIED, upstreams={"secure.local:443": curious.port}), upstream_ca=authority.pem
    )
    (answer,) = ask(proxy, sandbox, "secure.local", "/mine/a")
    assert (answer.status, answer.reason) == (502, "credential-missing")
    assert not curious.accepted


def test_the_key_is_nowhere_in_what_is_said_and_written(
    proxy: Proxy,
    sandbox: Sandbox,
    attach: Callable[..., None],
    secure: Upstream,
    client: Client,
    tmp_path: Path,
) -> None:
    attach(policy(CERTIFIED, upstreams={"secure.local:443": secure.port}))
    ask(proxy, sandbox, "secure.local", "/mine/a")
    needles = leaks.forms(client.key.split("\n")[1].encode())
    assert not leaks.in_bytes(repr(proxy.events).encode() + bytes(secure.received), needles)
    # The test's own host keeps its key there; no file has the client's.
    assert not leaks.in_files([tmp_path], needles)


class TestUpstreamAuthorities:
    """``upstream_ca``: beside the system's, and for one sandbox alone."""

    @pytest.fixture
    def plain(self, authority: Authority) -> Iterator[Upstream]:
        with Upstream(tls=authority.server("secure.local")) as server:
            yield server

    def test_they_are_no_other_sandboxs(
        self, proxy: Proxy, new_sandbox: Callable[[], Sandbox], authority: Authority, plain: Upstream
    ) -> None:
        """K30: whichever is attached or asked first."""
        rules = policy(rule("a", "secure.local", inspect=True), upstreams={"secure.local:443": plain.port})
        with_it, without = new_sandbox(), new_sandbox()
        proxy.attach(without, rules)
        proxy.attach(with_it, rules, upstream_ca=authority.pem)
        for _ in range(2):
            assert ask(proxy, with_it, "secure.local", "/")[0].status == 200
            assert ask(proxy, without, "secure.local", "/")[0].reason == "upstream-certificate-rejected"

    def test_a_bundle_may_be_larger_than_a_message(
        self, proxy: Proxy, sandbox: Sandbox, authority: Authority, plain: Upstream
    ) -> None:
        others = ca.CertificateAuthority.create().certificate_pem * 120
        assert len(others) > fds.MAX_MESSAGE
        bundle = fds.memfd("bundle", (others + authority.pem).encode())
        rules = policy(rule("a", "secure.local", inspect=True), upstreams={"secure.local:443": plain.port})
        proxy.attach(sandbox, rules, bundle, upstream_ca=True)
        os.close(bundle)
        assert ask(proxy, sandbox, "secure.local", "/")[0].status == 200
