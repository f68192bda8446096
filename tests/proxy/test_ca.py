"""The authority: what its certificates say, and that they are accepted by who verifies strictly."""

from __future__ import annotations

import datetime as dt
import ipaddress

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.verification import PolicyBuilder, Store

from nsharness_proxy.ca import VALIDITY, CertificateAuthority

LONG = ".".join(["a" * 60] * 4)


@pytest.fixture(scope="module")
def authority() -> CertificateAuthority:
    return CertificateAuthority.create()


def certificate_of(authority: CertificateAuthority) -> x509.Certificate:
    return x509.load_pem_x509_certificate(authority.certificate_pem.encode())


@pytest.mark.parametrize("host", ["wiki.local", "xn--bcher-kva.example", "192.0.2.7", "2001:db8::7", LONG])
def test_a_leaf_is_for_its_host_and_no_other(authority: CertificateAuthority, host: str) -> None:
    leaf = authority.leaf(host)
    store = Store([certificate_of(authority)])
    subject: x509.DNSName | x509.IPAddress
    try:
        subject = x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        subject = x509.DNSName(host)
    PolicyBuilder().store(store).build_server_verifier(subject).verify(leaf.certificate, [])
    other = PolicyBuilder().store(store).build_server_verifier(x509.DNSName("other.local"))
    with pytest.raises(x509.verification.VerificationError):
        other.verify(leaf.certificate, [])
    assert leaf.certificate.public_key() == leaf.key.public_key()


def test_the_authority_signs_leaves_only_and_not_for_ever(authority: CertificateAuthority) -> None:
    certificate = certificate_of(authority)
    constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    assert constraints.critical
    assert (constraints.value.ca, constraints.value.path_length) == (True, 0)
    remaining = certificate.not_valid_after_utc - dt.datetime.now(dt.UTC)
    assert VALIDITY - dt.timedelta(hours=1) < remaining <= VALIDITY
    leaf = authority.leaf("a.b").certificate
    assert leaf.not_valid_after_utc <= certificate.not_valid_after_utc
    assert not leaf.extensions.get_extension_for_class(x509.BasicConstraints).value.ca


def test_the_key_of_the_authority_is_in_no_leaf(authority: CertificateAuthority) -> None:
    assert authority.leaf("a.b").key.public_key() != certificate_of(authority).public_key()


def test_an_authority_goes_on_from_what_it_wrote(authority: CertificateAuthority) -> None:
    again = CertificateAuthority.from_pem(authority.to_pem())
    assert again.certificate_pem == authority.certificate_pem
    again.leaf("a.b").certificate.verify_directly_issued_by(certificate_of(authority))


def test_two_authorities_differ_in_name_and_key() -> None:
    one, two = (certificate_of(CertificateAuthority.create()) for _ in range(2))
    assert one.subject != two.subject
    assert one.public_key() != two.public_key()


def pem(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> bytes:
    encoding, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    return key.private_bytes(encoding, form, serialization.NoEncryption())


def test_a_key_that_is_not_the_certificates_is_refused_and_not_quoted(
    authority: CertificateAuthority,
) -> None:
    own = authority.certificate_pem.encode()
    for key in (ec.generate_private_key(ec.SECP256R1()), rsa.generate_private_key(65537, 2048)):
        with pytest.raises(ValueError, match="malformed") as raised:
            CertificateAuthority.from_pem(pem(key) + own)
        assert pem(key).decode().split("\n")[1] not in str(raised.value)
    for content in (b"", b"x", own, authority.to_pem()[:200]):
        with pytest.raises(ValueError, match="malformed"):
            CertificateAuthority.from_pem(content)


def test_nothing_of_the_key_is_in_a_representation(authority: CertificateAuthority) -> None:
    assert "PRIVATE" not in repr(authority) + repr(authority.leaf("a.b"))
