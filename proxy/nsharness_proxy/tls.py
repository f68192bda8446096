"""TLS on both sides: towards the client with certificates of our own, towards the host verified.

OpenSSL objects are made here and handed to the engine, so that none of its own TLS configuration,
which keeps keys in files, is ever loaded.
"""

from __future__ import annotations

import contextlib
import ipaddress
import stat
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from cryptography import x509
from OpenSSL import SSL, crypto

from nsharness.policy.hosts import is_ip
from nsharness_proxy.ca import CertificateAuthority
from nsharness_proxy.shown import Kept, Shown

# Clients may speak HTTP/2, hosts are asked for HTTP/1.1: what a request becomes does not depend on what its
# host would have liked. See ``layers``.
PROTOCOL = b"http/1.1"
HTTP2 = b"h2"

TRUST_STORES = (
    "/etc/ssl/certs/ca-certificates.crt",  # Debian, Ubuntu, Arch, Gentoo, Alpine
    "/etc/pki/tls/certs/ca-bundle.crt",  # Fedora, RHEL
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",  # Fedora, RHEL, newer
    "/etc/ssl/ca-bundle.pem",  # openSUSE
    "/etc/ssl/cert.pem",  # Alpine, Void
    "/etc/pki/tls/cacert.pem",
)
"""Where distributions keep the bundle of trusted authorities. The environment is not asked."""

_CONTEXTS = 256


class ClientSide:
    """The server's half of TLS with clients: one context for each host, made when first needed."""

    def __init__(
        self, authority: CertificateAuthority, protocols: Sequence[bytes] = (HTTP2, PROTOCOL)
    ) -> None:
        """``protocols`` are those that clients may speak, the preferred one first."""
        self._authority = authority
        self._select = _selector(tuple(protocols))
        self._contexts: OrderedDict[str, SSL.Context] = OrderedDict()

    def connection(self, host: str) -> SSL.Connection:
        """A new handshake as the canonical ``host``, which policy must allow."""
        context = self._contexts.get(host)
        if context is None:
            context = self._contexts[host] = self._context(host)
            if len(self._contexts) > _CONTEXTS:
                self._contexts.popitem(last=False)
        self._contexts.move_to_end(host)
        connection = SSL.Connection(context)
        connection.set_accept_state()
        return connection

    def _context(self, host: str) -> SSL.Context:
        leaf = self._authority.leaf(host)
        context = SSL.Context(SSL.TLS_SERVER_METHOD)
        context.set_min_proto_version(SSL.TLS1_2_VERSION)
        context.set_options(SSL.OP_NO_COMPRESSION | SSL.OP_NO_RENEGOTIATION | SSL.OP_CIPHER_SERVER_PREFERENCE)
        context.set_mode(SSL.MODE_RELEASE_BUFFERS)
        context.set_session_id(host.encode("ascii")[:32])
        context.use_certificate(leaf.certificate)
        context.use_privatekey(leaf.key)
        context.set_alpn_select_callback(self._select)
        return context


class HostSide:
    """The client's half of TLS with hosts: verified against the system's authorities, by name."""

    def __init__(self, extra: bytes = b"") -> None:
        """``extra`` are further authorities in PEM; ``ValueError`` if they are none."""
        self.trusts, self._as_it_was = _trust_store()
        self._extra = x509.load_pem_x509_certificates(extra) if extra else []
        self._shown: OrderedDict[object, Kept] = OrderedDict()
        self._context = self._new_context()

    def is_current(self) -> bool:
        """Whether the system's authorities are still those that were loaded, as far as their file tells."""
        return (self.trusts, self._as_it_was) == _trust_store()

    def connection(self, host: str, shown: Shown | None = None) -> SSL.Connection:
        """A new handshake with the canonical ``host``: its certificate must be for that name or address.
        ``shown`` is what it may be shown then."""
        if shown is None:
            connection = SSL.Connection(self._context)
        else:
            # In a context of its own, because that is where the certificates above the client's are.
            kept = self._shown.pop(shown.key, None) or Kept(self._new_context())
            self._shown[shown.key] = kept
            if len(self._shown) > _CONTEXTS:
                self._shown.popitem(last=False)
            connection = SSL.Connection(kept.context)
            shown.on(connection, kept)
        _expect_host(connection, host)
        connection.set_alpn_protos([PROTOCOL])
        connection.set_connect_state()
        return connection

    def _new_context(self) -> SSL.Context:
        context = SSL.Context(SSL.TLS_CLIENT_METHOD)
        context.set_min_proto_version(SSL.TLS1_2_VERSION)
        context.set_options(SSL.OP_NO_COMPRESSION | SSL.OP_NO_RENEGOTIATION)
        # An idle connection keeps no buffers: 34 kB each, by the manual of SSL_CTX_set_mode(3).
        context.set_mode(SSL.MODE_RELEASE_BUFFERS)
        context.set_verify(SSL.VERIFY_PEER)
        if self.trusts is not None:
            context.load_verify_locations(self.trusts)
        for certificate in self._extra:
            store = context.get_cert_store()
            assert store is not None
            store.add_cert(crypto.X509.from_cryptography(certificate))
        return context


def _trust_store() -> tuple[str | None, tuple[int, ...]]:
    """The bundle of the system's authorities, and by what a change of it is seen; None without one."""
    for path in TRUST_STORES:
        with contextlib.suppress(OSError):
            status = Path(path).stat()
            if stat.S_ISREG(status.st_mode):
                return path, (status.st_dev, status.st_ino, status.st_size, status.st_ctime_ns)
    return None, ()


def rehearsed(authority: CertificateAuthority) -> HostSide:
    """The usual half of TLS with hosts, after one handshake with ourselves: the libraries import parts of
    themselves when they are first used."""
    made = HostSide()
    client, server = (
        made.connection("rehearsal.invalid"),
        ClientSide(authority).connection("rehearsal.invalid"),
    )
    ends = ((client, server), (server, client))
    for here, there in ends * 2:
        # It fails where the certificate is verified, which is as far as it has to go.
        with contextlib.suppress(SSL.Error):
            here.do_handshake()
        with contextlib.suppress(SSL.Error):
            there.bio_write(here.bio_read(65536))
    return made


def _expect_host(connection: SSL.Connection, host: str) -> None:
    """Name verification, which OpenSSL does for us (X509_VERIFY_PARAM_set_flags(3)) but pyOpenSSL hides."""
    lib, check = SSL._lib, SSL._openssl_assert  # type: ignore[attr-defined]
    parameters = lib.SSL_get0_param(connection._ssl)
    lib.X509_VERIFY_PARAM_set_hostflags(
        parameters, lib.X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS | lib.X509_CHECK_FLAG_NEVER_CHECK_SUBJECT
    )
    if is_ip(host):
        packed = ipaddress.ip_address(host).packed
        check(lib.X509_VERIFY_PARAM_set1_ip(parameters, packed, len(packed)) == 1)
        return
    name = host.encode("ascii")
    connection.set_tlsext_host_name(name)
    check(lib.X509_VERIFY_PARAM_set1_host(parameters, name, len(name)) == 1)


def _selector(protocols: tuple[bytes, ...]) -> Callable[[SSL.Connection, list[bytes]], Any]:
    """The first of ``protocols`` that the client has (RFC 7301 section 3.2: the server chooses)."""

    def select(connection: SSL.Connection, offered: list[bytes]) -> Any:
        return next((each for each in protocols if each in offered), SSL.NO_OVERLAPPING_PROTOCOLS)

    return select
