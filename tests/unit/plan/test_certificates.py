"""Names of certificates as OpenSSL makes them, and stores as Java reads them; the real programs say so."""

from __future__ import annotations

import datetime as dt
import subprocess
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.name import _ASN1Type
from cryptography.x509.oid import NameOID

from nsharness.plan.certificates import certificates, subject_hash
from nsharness.plan.java import PASSWORD, trust_store
from nsharness_proxy.ca import CertificateAuthority
from tests.support.clients import need

CN, ORG, DC = NameOID.COMMON_NAME, NameOID.ORGANIZATION_NAME, NameOID.DOMAIN_COMPONENT
_KEY = ec.generate_private_key(ec.SECP256R1())

SUBJECTS = {
    "empty": x509.Name([]),
    "one": x509.Name([x509.NameAttribute(CN, "nsharness CA 0123abcd")]),
    "case and spaces": x509.Name([x509.NameAttribute(ORG, "  Große \t KATZEN  AG ")]),
    "printable": x509.Name([x509.NameAttribute(CN, "ROOT  ca", _ASN1Type.PrintableString)]),
    "two bytes a letter": x509.Name([x509.NameAttribute(CN, "Ärger  X", _ASN1Type.BMPString)]),
    "four bytes a letter": x509.Name([x509.NameAttribute(CN, "Ärger X", _ASN1Type.UniversalString)]),
    "latin": x509.Name([x509.NameAttribute(CN, "Caf\u00e9", _ASN1Type.T61String)]),
    "ia5": x509.Name([x509.NameAttribute(DC, "Example"), x509.NameAttribute(DC, "COM")]),
    "several in one": x509.Name(
        [x509.RelativeDistinguishedName([x509.NameAttribute(ORG, "zz"), x509.NameAttribute(CN, "aa")])]
    ),
    "long": x509.Name([x509.NameAttribute(NameOID.DN_QUALIFIER, "x" * 400)]),
}


def certificate(subject: x509.Name) -> x509.Certificate:
    now = dt.datetime.now(dt.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(x509.Name([x509.NameAttribute(CN, "somebody else")]))
        .public_key(_KEY.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now)
        .not_valid_after(now + dt.timedelta(days=1))
        .sign(_KEY, hashes.SHA256())
    )


@pytest.mark.parametrize("name", SUBJECTS)
def test_a_subject_has_the_hash_that_openssl_gives_it(name: str) -> None:
    need("openssl")
    made = certificate(SUBJECTS[name])
    pem = made.public_bytes(serialization.Encoding.PEM)
    done = subprocess.run(["openssl", "x509", "-noout", "-subject_hash"], input=pem, capture_output=True)
    assert subject_hash(made.public_bytes(serialization.Encoding.DER)) == done.stdout.decode().strip()


def test_the_hosts_own_certificates_have_the_names_that_they_have_there() -> None:
    links = [path for path in Path("/etc/ssl/certs").glob("????????.[0-9]") if path.is_file()]
    for path in links:
        (der,) = certificates(path.read_text(encoding="utf-8"))
        assert subject_hash(der) == path.stem
    if not links:
        pytest.skip("this machine has no directory of certificates")


@pytest.mark.parametrize("content", [b"", b"\x30", b"\x30\x03\x02\x01\x01", b"\x30\x85\xff", b"text"])
def test_what_is_no_certificate_is_refused(content: bytes) -> None:
    with pytest.raises(ValueError, match="no certificate"):
        subject_hash(content)


def test_only_certificates_are_taken_out_of_a_bundle() -> None:
    authority = CertificateAuthority.create()
    text = f"# comment\n{authority.to_pem().decode()}\n-----BEGIN CERTIFICATE-----\n!\n"
    (der,) = certificates(text)
    assert x509.load_der_x509_certificate(der).subject.rfc4514_string().startswith("CN=nsharness CA ")


def test_java_reads_the_store(tmp_path: Path) -> None:
    need("keytool")
    ders = [certificate(subject).public_bytes(serialization.Encoding.DER) for subject in SUBJECTS.values()]
    store = tmp_path / "cacerts"
    store.write_bytes(trust_store((f"entry-{number}", der) for number, der in enumerate(ders)))
    listing = ["keytool", "-J-XX:TieredStopAtLevel=1", "-list", "-rfc", "-keystore"]
    done = subprocess.run([*listing, str(store), "-storepass", PASSWORD], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert sorted(certificates(done.stdout)) == sorted(ders)
    damaged = bytearray(store.read_bytes())
    damaged[40] ^= 1
    store.write_bytes(damaged)
    assert subprocess.run([*listing, str(store), "-storepass", PASSWORD], capture_output=True).returncode
