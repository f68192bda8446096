"""The HTTP/2 codec with our settings, and heads in its words."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import h2.config
import h2.connection
import h2.settings
from mitmproxy import http

from nsharness.policy.headers import Field
from nsharness_proxy.tls import HTTP2

PROTOCOL: Final = HTTP2
"""As it is called in TLS (RFC 9113 section 3.1)."""

MAX_STREAMS: Final = 100
"""Requests of one connection at a time: what clients assume before they are told (RFC 9113 section 6.5.2)."""
WINDOW: Final = 65535
"""Bytes of one request's body that a client may send before the host takes any."""
MAX_FIELDS: Final = 64 * 1024
"""Bytes of a request's head when it is decoded."""
_TABLE: Final = 4096

# RFC 9113 section 8.2.2.
_OF_CONNECTION: Final = frozenset(
    {b"connection", b"proxy-connection", b"keep-alive", b"transfer-encoding", b"upgrade"}
)


def make() -> h2.connection.H2Connection:
    """The codec reads frames and keeps the state of streams; what is in a head is checked by us."""
    made = h2.connection.H2Connection(
        h2.config.H2Configuration(
            client_side=False,
            header_encoding=False,
            validate_inbound_headers=False,
            normalize_inbound_headers=False,
            validate_outbound_headers=False,
            normalize_outbound_headers=False,
        )
    )
    made.local_settings = h2.settings.Settings(
        client=False,
        initial_values={
            h2.settings.SettingCodes.MAX_CONCURRENT_STREAMS: MAX_STREAMS,
            h2.settings.SettingCodes.MAX_HEADER_LIST_SIZE: MAX_FIELDS,
            h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: WINDOW,
        },
    )
    return made


def bound_table(made: h2.connection.H2Connection) -> None:
    """Keep to the smallest table that a client must have: one as large as it likes would keep all that it is
    ever sent (RFC 7541 section 4.2)."""
    if made.encoder.header_table_size > _TABLE:
        made.encoder.header_table_size = _TABLE


def pairs(fields: Iterable[Any]) -> list[Field]:
    """The codec's fields are tuples of a class of its own, in bytes because it was told so."""
    return [(bytes(name), bytes(value)) for name, value in fields]


def answer_head(response: http.Response) -> list[Field]:
    """An answer's head in the words of HTTP/2 (RFC 9113 section 8.3.2)."""
    fields = response.headers.fields
    listed = {
        token.strip().lower()
        for name, value in fields
        if name.lower() == b"connection"
        for token in value.split(b",")
    }
    dropped = _OF_CONNECTION | listed
    return [
        (b":status", b"%d" % response.status_code),
        *((name.lower(), value.strip()) for name, value in fields if name.lower() not in dropped),
    ]
