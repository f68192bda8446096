"""An authority of the tests' own, for hosts that speak TLS."""

from __future__ import annotations

import ssl
from pathlib import Path

from cryptography.hazmat.primitives import serialization

from nsharness_proxy.ca import CertificateAuthority


class Authority:
    """Makes TLS settings for servers, with a certificate for any host."""

    def __init__(self, folder: Path) -> None:
        self._authority = CertificateAuthority.create()
        self._folder = folder
        self.pem = self._authority.certificate_pem

    def server(self, host: str, *others: str) -> ssl.SSLContext:
        """Settings of a server that prefers HTTP/2, and is ``others`` as well, by name."""
        context = self._context(host)
        by_name = {name: self._context(name) for name in others}

        def choose(connection: ssl.SSLObject | ssl.SSLSocket, name: str | None, _: ssl.SSLContext) -> None:
            if name in by_name:
                connection.context = by_name[name]

        if others:
            context.sni_callback = choose
        return context

    def _context(self, host: str) -> ssl.SSLContext:
        leaf = self._authority.leaf(host)
        path = self._folder / f"{host}.pem"
        key = leaf.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        path.write_bytes(key + leaf.certificate.public_bytes(serialization.Encoding.PEM))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.set_alpn_protocols(["h2", "http/1.1"])
        context.load_cert_chain(path)
        return context
