"""Where the run's authority is put, on the hosts of each family of distributions."""

from __future__ import annotations

import base64

import pytest

from nsharness.plan import java, trust
from nsharness.plan.certificates import certificates, subject_hash
from nsharness.plan.facts import CertificateDirectory, Entry, HostFacts, gather
from nsharness.plan.steps import Bind, Cover, File, Links, Step, Symlink
from nsharness.plan.trust import CA_BUNDLE, CA_FILE, JAVA_STORE
from nsharness_proxy.ca import CertificateAuthority

CA = CertificateAuthority.create().certificate_pem
HOST = CertificateAuthority.create().certificate_pem
HASH = subject_hash(certificates(CA)[0])

DEBIAN = HostFacts(
    ca_bundle=HOST,
    certificates={
        "/etc/ssl/certs": CertificateDirectory(
            "/etc/ssl/certs", (f"{HASH}.0", "ca-certificates.crt", "host.pem", "java")
        )
    },
    java=True,
)
FEDORA = HostFacts(
    {
        "/etc/ssl/certs": Entry("symlink", "/etc/pki/tls/certs"),
        "/etc/pki/ca-trust/extracted": Entry("directory"),
        "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem": Entry("file"),
        "/etc/pki/ca-trust/extracted/java/cacerts": Entry("file"),
    },
    HOST,
    certificates={
        "/etc/pki/tls/certs": CertificateDirectory("/etc/pki/tls/certs", ("ca-bundle.crt", "0a.0"))
    },
    java=True,
)
SUSE = HostFacts(
    {"/etc/ssl/ca-bundle.pem": Entry("symlink", "/var/lib/ca-certificates/ca-bundle.pem")},
    HOST,
    certificates={"/etc/ssl/certs": CertificateDirectory("/var/lib/ca-certificates/pem", ("0a.0",))},
)
BARE = HostFacts()


def resolved(path: str, facts: HostFacts) -> str:
    """What a path of the sandbox leads to, over the links and covers of the steps."""
    steps = trust.trusted(CA, facts, {"/etc", "/etc/nsharness"})
    links = {step.path: step.target for step in steps if isinstance(step, Symlink)}
    links |= {step.path: step.by for step in steps if isinstance(step, Cover)}
    for step in steps:
        if isinstance(step, Links):
            assert not {f"{step.path}/{name}" for name in step.names} & links.keys()
            links |= {f"{step.path}/{name}": f"{step.into}/{name}" for name in step.names}
    while True:
        top = next((top for top in links if path == top or path.startswith(top + "/")), None)
        if top is None:
            return path
        path = links[top] + path.removeprefix(top)


@pytest.mark.parametrize("facts", [DEBIAN, FEDORA, SUSE, BARE], ids=["debian", "fedora", "suse", "bare"])
@pytest.mark.parametrize(
    "path",
    [
        "/etc/ssl/certs/ca-certificates.crt",
        "/etc/pki/tls/certs/ca-bundle.crt",
        "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
        "/etc/ssl/cert.pem",
        "/etc/ssl/ca-bundle.pem",
    ],
)
def test_the_bundle_of_every_distribution_is_the_runs(facts: HostFacts, path: str) -> None:
    assert resolved(path, facts) == CA_BUNDLE


@pytest.mark.parametrize("facts", [DEBIAN, FEDORA, SUSE, BARE], ids=["debian", "fedora", "suse", "bare"])
def test_openssl_finds_the_authority_in_the_directory(facts: HostFacts) -> None:
    number = 1 if facts is DEBIAN else 0  # another certificate of the same name was there
    assert resolved(f"/etc/ssl/certs/{HASH}.{number}", facts) == CA_FILE


def test_the_hosts_certificates_stay_in_the_directory() -> None:
    assert resolved("/etc/ssl/certs/host.pem", DEBIAN) == "/etc/nsharness/certs/0/host.pem"
    assert resolved(f"/etc/ssl/certs/{HASH}.0", DEBIAN) == f"/etc/nsharness/certs/0/{HASH}.0"
    assert resolved("/etc/ssl/certs/0a.0", FEDORA) == "/etc/nsharness/certs/1/0a.0"
    steps = trust.trusted(CA, SUSE, {"/etc", "/etc/nsharness"})
    assert Bind("/var/lib/ca-certificates/pem", "/etc/nsharness/certs/0") in steps


def files(steps: list[Step]) -> dict[str, str]:
    return {step.path: step.content for step in steps if isinstance(step, File)}


def test_java_has_a_store_where_it_looks_if_the_host_has_java() -> None:
    for path, facts in (("/etc/ssl/certs/java/cacerts", DEBIAN), ("/etc/pki/java/cacerts", FEDORA)):
        assert resolved(path, facts) == JAVA_STORE
    assert resolved("/etc/pki/ca-trust/extracted/java/cacerts", FEDORA) == JAVA_STORE
    store = base64.b64decode(files(trust.trusted(CA, DEBIAN, {"/etc"}))[JAVA_STORE])
    ders = [certificates(text)[0] for text in (CA, HOST)]
    assert store == java.trust_store([("nsharness-0", ders[0]), ("host-0", ders[1])])
    assert JAVA_STORE not in files(trust.trusted(CA, SUSE, {"/etc"}))
    assert "JAVA_TOOL_OPTIONS" in trust.variables(CA, DEBIAN)
    assert "JAVA_TOOL_OPTIONS" not in trust.variables(CA, SUSE)


def test_the_hosts_certificates_are_trusted_in_addition() -> None:
    content = files(trust.trusted(CA, DEBIAN, {"/etc"}))
    assert content[CA_FILE] == CA
    assert content[CA_BUNDLE] == HOST.rstrip("\n") + "\n" + CA
    assert files(trust.trusted(CA, BARE, {"/etc"}))[CA_BUNDLE].strip() == CA.strip()


def test_without_an_authority_the_hosts_directory_is_there_as_it_is() -> None:
    assert trust.variables("", DEBIAN) == {}
    assert Bind("/etc/ssl/certs", "/etc/ssl/certs") in trust.trusted("", DEBIAN, {"/etc"})
    assert Symlink("/etc/ssl/certs", "/etc/pki/tls/certs") in trust.trusted("", FEDORA, {"/etc"})


def test_this_machines_plan_stays_small() -> None:
    """A certificate is no step: a host has hundreds."""
    assert len(trust.trusted(CA, gather(), {"/etc", "/etc/nsharness"})) < 30
