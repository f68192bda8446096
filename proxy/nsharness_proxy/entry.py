"""TLS at the door, for sandboxes that identify themselves by a certificate: one more round everything else.

The certificate is signed by the sandbox's own authority, which is all that its listener trusts: no other
sandbox has one. The certificates that the same authority signs for hosts are no use here, they are for
servers (extended key usage, RFC 5280 section 4.2.1.12).
"""

from __future__ import annotations

import os
import ssl
from typing import Any

from cryptography.hazmat.primitives import serialization

from nsharness.linux import fds
from nsharness_proxy.ca import PROXY_ADDRESS, CertificateAuthority


def entry_tls(authority: CertificateAuthority) -> ssl.SSLContext:
    """The settings of a listener that serves nobody without a certificate of ``authority``."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # Every connection shows its certificate anew: a resumed one would not be asked.
    context.options |= ssl.OP_NO_TICKET | ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    context.num_tickets = 0
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(cadata=authority.certificate_pem)
    context.set_alpn_protocols(["http/1.1"])
    leaf = authority.leaf(PROXY_ADDRESS)
    key = leaf.key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    # This library takes files only. One in memory has a name for the process that has it open, and no other.
    content = fds.memfd("entry", key + leaf.certificate.public_bytes(serialization.Encoding.PEM))
    try:
        context.load_cert_chain(f"/proc/self/fd/{content}")
    finally:
        os.close(content)
    return context


def holder(connection: ssl.SSLObject) -> str | None:
    """Whom the verified certificate of a client is for: its common name, if it has exactly one."""
    subject: Any = (connection.getpeercert() or {}).get("subject", ())
    names = [value for part in subject for name, value in part if name == "commonName"]
    return str(names[0]) if len(names) == 1 else None
