"""The certificate authority that a sandbox trusts: one key, in memory only.

An EC key is made in a fraction of a millisecond and this module needs nothing but ``cryptography``,
so that the certificate is known long before the engine has been imported. It signs leaf certificates
for hosts that the policy allows, and nothing else; its own certificate says so (name constraints, RFC 5280
section 4.2.1.10), so that whoever got the key could pretend to be no other host. All leaves share one
key, which is not the authority's own.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from nsharness.policy.hosts import HostPattern, is_ip
from nsharness.policy.model import Policy

VALIDITY = dt.timedelta(days=30)
PROXY_ADDRESS = "10.127.0.1"
"""Where clients that show a certificate find the proxy: its own certificate is for this address."""
# Clocks of sandboxes and hosts differ.
_BACKDATED = dt.timedelta(days=1)
_COMMON_NAME_LIMIT = 64
# A domain that nobody has (RFC 6761 section 6.4): without any permitted name, all would be.
_NOBODY = "invalid"
_EVERY_ADDRESS = (ipaddress.IPv4Network("0.0.0.0/0"), ipaddress.IPv6Network("::/0"))


@dataclass(frozen=True, slots=True, repr=False)
class Leaf:
    """A certificate for one host, and its key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey


class CertificateAuthority:
    """Signs certificates for hosts. ``create`` makes a new one, ``from_pem`` continues an earlier one."""

    def __init__(self, key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate) -> None:
        self._key = key
        self._certificate = certificate
        self._leaf_key = ec.generate_private_key(ec.SECP256R1())
        self._issuer_id = certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value

    @classmethod
    def create(cls, hosts: Iterable[HostPattern] | None = None) -> CertificateAuthority:
        """A new authority with a P-256 key, valid for 30 days, and for ``hosts`` only; None means any."""
        key = ec.generate_private_key(ec.SECP256R1())
        now = dt.datetime.now(dt.UTC)
        serial = x509.random_serial_number()
        # A name of its own for each: clients pick an issuer by name, and runs must not be confused.
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"nsharness CA {serial & 0xFFFFFFFF:08x}")])
        builder = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(serial)
            .not_valid_before(now - _BACKDATED)
            .not_valid_after(now + VALIDITY)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_key_usage(signs_certificates=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        )
        if hosts is not None:
            builder = builder.add_extension(_constraints(hosts), critical=True)
        return cls(key, builder.sign(key, hashes.SHA256()))

    @classmethod
    def from_pem(cls, content: bytes) -> CertificateAuthority:
        """Read what ``to_pem`` gave; ``ValueError``, without the content, for anything else."""
        problem = "the authority's key or certificate is malformed"
        try:
            key = serialization.load_pem_private_key(content, password=None)
            certificate = x509.load_pem_x509_certificate(content)
        except (ValueError, TypeError):
            raise ValueError(problem) from None
        if not isinstance(key, ec.EllipticCurvePrivateKey) or certificate.public_key() != key.public_key():
            raise ValueError(problem)
        return cls(key, certificate)

    @property
    def certificate_pem(self) -> str:
        """What a sandbox's trust store gets."""
        return self._certificate.public_bytes(serialization.Encoding.PEM).decode("ascii")

    def covers(self, host: str) -> bool:
        """Whether clients would take a certificate of this authority for a canonical host."""
        try:
            extension = self._certificate.extensions.get_extension_for_class(x509.NameConstraints)
        except x509.ExtensionNotFound:
            return True
        permitted = [name.value for name in extension.value.permitted_subtrees or ()]
        if is_ip(host):
            return ipaddress.ip_network(host) in permitted
        names = [name for name in permitted if isinstance(name, str)]
        return any(host == name or host.endswith(f".{name}") for name in names)

    def to_pem(self) -> bytes:
        """Key and certificate: only ever into a sealed memfd."""
        key = self._key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return key + self.certificate_pem.encode("ascii")

    def client(self, name: str, validity: dt.timedelta | None = None) -> tuple[str, str]:
        """A certificate with which a client can show that it is ``name``, and its key; both as PEM. Valid as
        long as the authority, or until ``validity`` from now."""
        key = ec.generate_private_key(ec.SECP256R1())
        now = dt.datetime.now(dt.UTC)
        end = self._certificate.not_valid_after_utc if validity is None else now + validity
        certificate = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:_COMMON_NAME_LIMIT])]))
            .issuer_name(self._certificate.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - _BACKDATED)
            .not_valid_after(end)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(self._issuer_id),
                critical=False,
            )
            .sign(self._key, hashes.SHA256())
        )
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return certificate.public_bytes(serialization.Encoding.PEM).decode("ascii"), private.decode("ascii")

    def leaf(self, host: str) -> Leaf:
        """A new certificate for a canonical host, a name or an IP address."""
        now = dt.datetime.now(dt.UTC)
        # A subject may be empty, the alternative name is critical then (RFC 5280 section 4.2.1.6). Verifiers
        # would take an address in it for a name that the constraints do not permit.
        named = len(host) <= _COMMON_NAME_LIMIT and not is_ip(host)
        attributes = [x509.NameAttribute(NameOID.COMMON_NAME, host)] if named else []
        certificate = (
            x509.CertificateBuilder()
            .subject_name(x509.Name(attributes))
            .issuer_name(self._certificate.subject)
            .public_key(self._leaf_key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - _BACKDATED)
            .not_valid_after(self._certificate.not_valid_after_utc)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName([_general_name(host)]), critical=not attributes)
            .add_extension(_key_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(self._issuer_id),
                critical=False,
            )
            .sign(self._key, hashes.SHA256())
        )
        return Leaf(certificate, self._leaf_key)


def hosts_of(policy: Policy) -> tuple[HostPattern, ...] | None:
    """What a sandbox's authority must be able to certify; None, for any host, where a rule allows any, and
    where hosts may be asked about that nobody knows yet."""
    if policy.unknown == "ask":
        return None
    patterns = tuple(pattern for rule in policy.rules if not rule.deny for pattern in rule.hosts)
    if policy.proxy_auth == "mtls":
        patterns = (*patterns, HostPattern.parse(PROXY_ADDRESS))
    return None if any(pattern.subdomains and "." not in pattern.base for pattern in patterns) else patterns


def _constraints(hosts: Iterable[HostPattern]) -> x509.NameConstraints:
    """No leading dots: a name stands for itself and everything below it, in every implementation."""
    bases = list(dict.fromkeys(pattern.base for pattern in hosts))
    names = [x509.DNSName(base) for base in bases if not is_ip(base)]
    networks = [ipaddress.ip_network(base) for base in bases if is_ip(base)]
    # What is excluded stays so although it is permitted: a family with a listed address is permitted only.
    excluded = [every for every in _EVERY_ADDRESS if all(n.version != every.version for n in networks)]
    return x509.NameConstraints(
        permitted_subtrees=[*(names or [x509.DNSName(_NOBODY)]), *map(x509.IPAddress, networks)],
        excluded_subtrees=list(map(x509.IPAddress, excluded)) or None,
    )


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )
