"""What of the credential map is not a header."""

from __future__ import annotations

import pytest

from nsharness.credentials.map import ClientCertificate
from nsharness.credentials.secret import Secret

KEY = "-----BEGIN PRIVATE KEY----- aGVsbG8g d29ybGQ= -----END PRIVATE KEY-----"
CHAIN = "-----BEGIN CERTIFICATE----- aGVsbG8= -----END CERTIFICATE-----"


def test_a_client_certificate_is_pem_again_when_it_is_used() -> None:
    made = ClientCertificate(Secret(f"{CHAIN} {CHAIN} "), Secret(KEY))
    assert made.key_pem() == "-----BEGIN PRIVATE KEY-----\naGVsbG8gd29ybGQ=\n-----END PRIVATE KEY-----\n"
    assert made.chain_pem() == 2 * "-----BEGIN CERTIFICATE-----\naGVsbG8=\n-----END CERTIFICATE-----\n"
    assert "aGVsbG8" not in repr(made)
    for chain, key in (
        (KEY, KEY),
        (CHAIN, CHAIN),
        (CHAIN, KEY + KEY),
        (CHAIN, KEY.replace("PRIVATE", "ENCRYPTED PRIVATE")),
        (CHAIN, f"x {KEY}"),
        (CHAIN, "no key at all"),
        ("/etc/passwd", KEY),
    ):
        with pytest.raises(ValueError, match=r"PEM|several") as caught:
            ClientCertificate(Secret(chain), Secret(key))
        assert "aGVsbG8" not in str(caught.value)
