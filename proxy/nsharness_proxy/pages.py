"""Answers of the proxy itself as objects of mitmproxy."""

from __future__ import annotations

import time
from http import HTTPStatus

from mitmproxy import http

from nsharness_proxy.refusal import Refused


def response(refused: Refused, method: str = "GET") -> http.Response:
    """The HTTP answer. ``HEAD`` gets the same headers and no body (RFC 9110 section 9.3.2)."""
    now = time.time()
    return http.Response(
        http_version=b"HTTP/1.1",
        status_code=refused.status,
        reason=HTTPStatus(refused.status).phrase.encode("ascii"),
        headers=http.Headers(refused.fields()),
        content=b"" if method == "HEAD" else refused.body(),
        trailers=None,
        timestamp_start=now,
        timestamp_end=now,
    )
