"""Client certificates of an authority with another between."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from nsharness.credentials.map import ClientCertificate
from nsharness.credentials.secret import Secret
from nsharness.policy.authority import Claims
from nsharness.policy.hosts import HostPattern
from nsharness.policy.model import Policy, Rule
from nsharness.policy.names import NameTable
from nsharness.policy.proof import Proof, VerifiedCertificate, prove
from nsharness.policy.request import RequestView

_DAY = dt.timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Client:
    """A client's chain, its own certificate first, its key, and the root that a host knows; all as PEM."""

    chain: str
    key: str
    root: str

    @classmethod
    def create(cls, name: str) -> Client:
        """A certificate that is signed by an authority, which is signed by the root."""
        root_key, middle_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(3))
        root = _certificate("root", root_key, "root", root_key, ca=True)
        middle = _certificate("middle", middle_key, "root", root_key, ca=True)
        own = _certificate(name, key, "middle", middle_key, ca=False)
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return cls(_pem(own) + _pem(middle), private.decode(), _pem(root))

    @property
    def folded(self) -> tuple[str, str]:
        """Chain and key as the secret store has them: on one line."""
        return self.chain.replace("\n", " "), self.key.replace("\n", " ")

    @property
    def secrets(self) -> ClientCertificate:
        """As a credential map has it."""
        chain, key = self.folded
        return ClientCertificate(Secret(chain), Secret(key))


def certificate_proof(host: str, version: str) -> Proof:
    """The proof of an ordinary request by a rule that shows ``host`` a client certificate."""
    rule = Rule("certified", (HostPattern.parse(host),), client_certificate=True)
    return prove(
        sandbox="s",
        claims=Claims("connect", connect_target=f"{host}:443", sni=host, host_headers=(host,), tls=True),
        names=NameTable(),
        policy=Policy("p", (rule,)),
        request=RequestView("GET", "https", host, 443, "/"),
        upstream=VerifiedCertificate(host, "93.184.216.34"),
        secret_version=version,
    )


def _certificate(
    name: str, key: ec.EllipticCurvePrivateKey, issuer: str, signer: ec.EllipticCurvePrivateKey, *, ca: bool
) -> x509.Certificate:
    now = dt.datetime.now(dt.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _DAY)
        .not_valid_after(now + _DAY)
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(signer, hashes.SHA256())
    )


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()
