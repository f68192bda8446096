"""A client certificate, shown to a host in TLS: read when the host has proved itself and asks, not before.

OpenSSL calls back while the handshake waits for our certificate (SSL_set_cert_cb(3)): after the host's own
was verified, for the name that was decided on, and only if the host asked for one. Then there can be a proof.
A handshake in which there is none fails.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from OpenSSL import SSL, crypto

from nsharness.credentials.map import ClientCertificate

_FFI, _LIB = SSL._ffi, SSL._lib  # type: ignore[attr-defined]


@dataclass(slots=True)
class Kept:
    """The context of one client certificate, with the certificates above it once they are known: OpenSSL has
    no place for them that belongs to a connection."""

    context: SSL.Context
    chained: bool = False

    def add_chain(self, above: Iterable[x509.Certificate]) -> None:
        """Send these after the client's own from now on. They are always the same."""
        if self.chained:
            return
        for certificate in above:
            # pyOpenSSL changes no context that is in use, for the sake of threads. There are none here.
            copy = _LIB.X509_dup(crypto.X509.from_cryptography(certificate)._x509)
            if not _LIB.SSL_CTX_add_extra_chain_cert(self.context._context, copy):
                _LIB.X509_free(copy)
                raise ValueError("a certificate of the chain was not taken")
        self.chained = True


@dataclass(frozen=True, slots=True)
class Shown:
    """What a host may be shown: ``key`` says which that is, ``ask`` gives it, or raises."""

    key: object
    ask: Callable[[], ClientCertificate]

    def on(self, connection: SSL.Connection, kept_in: Kept) -> None:
        """Show it on a connection of the context ``kept_in`` whose handshake has not begun."""
        # The library knows the callback by its address alone: it must live as long as the connection, and may
        # not keep that alive itself.
        kept = weakref.ref(connection)

        def answer(_: Any, __: Any) -> int:
            try:
                here = kept()
                if here is None or not here.get_verified_chain():
                    return 0
                self._show(here, kept_in)
            except Exception:  # noqa: BLE001 - what leaves a callback goes nowhere; ``ask`` has told of it
                return 0
            return 1

        callback = _FFI.callback("int (*)(SSL *, void *)", answer)
        _LIB.SSL_set_cert_cb(connection._ssl, callback, _FFI.NULL)
        connection.set_app_data(callback)

    def _show(self, connection: SSL.Connection, kept_in: Kept) -> None:
        given = self.ask()
        own, *above = x509.load_pem_x509_certificates(given.chain_pem().encode("ascii"))
        connection.use_certificate(own)
        # Fails if it is not the certificate's.
        key = serialization.load_pem_private_key(given.key_pem().encode("ascii"), None)
        connection.use_privatekey(key)  # type: ignore[arg-type]
        kept_in.add_chain(above)
