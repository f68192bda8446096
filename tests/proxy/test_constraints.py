"""Name constraints: an authority's certificate says for which hosts it is, and verifiers hold it to that."""

from __future__ import annotations

import os
import shutil
import ssl
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from nsharness.linux import fds
from nsharness.policy.certifying import certifies
from nsharness.policy.hosts import HostPattern
from nsharness.policy.model import Policy, Rule
from nsharness_proxy.ca import CertificateAuthority, hosts_of
from tests.proxy.rig import Proxy, Sandbox, credential_map, policy, rule, tunnel

PERMITTED = ("wiki.local", "*.example.com", "192.0.2.7")


def authority(*hosts: str) -> CertificateAuthority:
    return CertificateAuthority.create(tuple(HostPattern.parse(host) for host in hosts))


def handshake(made: CertificateAuthority, host: str, folder: Path) -> None:
    """One in memory, verified by Python's ssl; raises what the client raises."""
    leaf = made.leaf(host)
    pem = serialization.Encoding.PEM
    key = leaf.key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path = folder / "leaf.pem"
    path.write_bytes(key + leaf.certificate.public_bytes(pem))
    ours = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ours.load_cert_chain(path)
    theirs = ssl.create_default_context(cadata=made.certificate_pem)
    theirs.verify_flags |= ssl.VERIFY_X509_STRICT
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = ours.wrap_bio(to_server, to_client, server_side=True)
    client = theirs.wrap_bio(to_client, to_server, server_hostname=host)
    for _ in range(3):
        for end in (client, server):
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
    assert client.getpeercert()


def openssl(made: CertificateAuthority, host: str, folder: Path) -> subprocess.CompletedProcess[str]:
    (folder / "ca.pem").write_text(made.certificate_pem)
    (folder / "leaf.pem").write_bytes(made.leaf(host).certificate.public_bytes(serialization.Encoding.PEM))
    command = ["openssl", "verify", "-x509_strict", "-CAfile", "ca.pem", "leaf.pem"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


def constraints(made: CertificateAuthority) -> x509.Extension[x509.NameConstraints]:
    certificate = x509.load_pem_x509_certificate(made.certificate_pem.encode())
    return certificate.extensions.get_extension_for_class(x509.NameConstraints)


@pytest.mark.parametrize("host", ["wiki.local", "a.wiki.local", "a.example.com", "192.0.2.7"])
def test_a_leaf_for_a_permitted_host_is_taken(host: str, tmp_path: Path) -> None:
    made = authority(*PERMITTED)
    handshake(made, host, tmp_path)
    assert made.covers(host)


@pytest.mark.parametrize("permitted", [PERMITTED, (), ("192.0.2.7",), ("2001:db8::7",)])
@pytest.mark.parametrize(
    "host", ["evil.local", "evilwiki.local", "example.org", "192.0.2.8", "127.0.0.1", "2001:db8::8", "::1"]
)
def test_a_leaf_for_another_host_is_refused(host: str, permitted: Iterable[str], tmp_path: Path) -> None:
    """Also by an authority that is for no host at all."""
    made = authority(*permitted)
    with pytest.raises(ssl.SSLCertVerificationError, match="subtree violation"):
        handshake(made, host, tmp_path)
    assert not made.covers(host)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
def test_openssl_verifies_the_same(tmp_path: Path) -> None:
    made = authority(*PERMITTED)
    assert openssl(made, "wiki.local", tmp_path).returncode == 0
    assert openssl(made, "192.0.2.7", tmp_path).returncode == 0
    refused = openssl(made, "evil.local", tmp_path)
    assert refused.returncode != 0
    assert "permitted subtree violation" in refused.stderr


def test_the_constraints_are_critical_and_written_as_every_implementation_reads_them() -> None:
    extension = constraints(authority(*PERMITTED))
    assert extension.critical
    permitted = [str(name.value) for name in extension.value.permitted_subtrees or ()]
    excluded = [str(name.value) for name in extension.value.excluded_subtrees or ()]
    assert permitted == ["wiki.local", "example.com", "192.0.2.7/32"]
    assert excluded == ["::/0"]
    nobody = constraints(authority()).value
    assert [str(name.value) for name in nobody.permitted_subtrees or ()] == ["invalid"]
    assert [str(name.value) for name in nobody.excluded_subtrees or ()] == ["0.0.0.0/0", "::/0"]


def test_they_come_from_what_is_allowed_and_outlive_a_restart() -> None:
    rules = policy(rule("wiki", "wiki.local", "*.a.example"), rule("no", "no.local", deny=True))
    hosts = hosts_of(rules)
    assert hosts is not None
    assert [str(host) for host in hosts] == ["wiki.local", "*.a.example"]
    again = CertificateAuthority.from_pem(CertificateAuthority.create(hosts).to_pem())
    assert again.covers("wiki.local")
    assert not again.covers("no.local")


def test_any_host_means_no_constraints() -> None:
    anything = Policy("test", (rule("all", "wiki.local"), any_rule()))
    assert hosts_of(anything) is None
    assert hosts_of(Policy("test", (rule("all", "wiki.local"),), unknown="ask")) is None
    assert CertificateAuthority.create(hosts_of(anything)).covers("any.example")


def any_rule() -> Rule:
    return Rule("any", (HostPattern.parse("*", allow_any=True),), allow_any=True)


def test_each_sandbox_has_its_own(new_sandbox: Callable[[], Sandbox]) -> None:
    """One process, two sandboxes: the authority of one is nothing to the other's clients."""
    one, two = new_sandbox(), new_sandbox()
    rules = policy(rule("wiki", "wiki.local", inspect=True))
    keys = [fds.memfd("key"), fds.memfd("key")]
    with Proxy(credential_map({})) as proxy:
        for sandbox, key in zip((one, two), keys, strict=True):
            proxy.send({"op": "authority", "name": sandbox.id, "policy": rules.to_json()}, (key,))
            proxy.attach(sandbox, rules, authority=sandbox.id)
        pems = [proxy.event("ca", name=sandbox.id)["pem"] for sandbox in (one, two)]
        assert pems[0] != pems[1]
        for sandbox, pem, fits in ((one, pems[0], True), (one, pems[1], False)):
            with sandbox.connect() as client:
                assert tunnel(client, "wiki.local:443").status == 200
                context = ssl.create_default_context(cadata=pem)
                if fits:
                    context.wrap_socket(client, server_hostname="wiki.local").close()
                else:
                    with pytest.raises(ssl.SSLCertVerificationError):
                        context.wrap_socket(client, server_hostname="wiki.local")
    assert all(map(fds.is_sealed, keys))
    fds.close_all(keys)


def test_an_authority_for_any_host_is_reported() -> None:
    key = fds.memfd("key")
    with Proxy(credential_map({})) as proxy:
        wide = Policy("test", (any_rule(),)).to_json()
        proxy.send({"op": "authority", "name": "wide", "policy": wide}, (key,))
        assert "any host" in proxy.event("log")["text"]
    os.close(key)


def test_a_sandbox_without_an_authority_is_not_served(running_proxy: Proxy, sandbox: Sandbox) -> None:
    running_proxy.events.clear()
    with pytest.raises(AssertionError):
        running_proxy.attach(sandbox, policy(), authority="nobody")
    assert "no authority" in running_proxy.event("error", sandbox=sandbox.id)["why"]


@pytest.mark.parametrize(
    "policy",
    [
        Policy("none"),
        Policy("none", proxy_auth="bearer"),
        Policy("none", (rule("no", "wiki.local", deny=True),)),
        Policy("some", (rule("all", "wiki.local"),)),
        Policy("some", (rule("no", "wiki.local", deny=True), rule("all", "other.local"))),
        Policy("some", unknown="ask"),
        Policy("some", proxy_auth="mtls"),
    ],
)
def test_a_sandbox_trusts_an_authority_that_can_certify_something(policy: Policy) -> None:
    assert certifies(policy.to_json()) == (policy.profile == "some") == (hosts_of(policy) != ())
