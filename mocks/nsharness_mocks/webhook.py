"""webhook.local: ``POST /webhooks/{id}`` takes a JSON document and keeps nothing of it."""

from __future__ import annotations

import asyncio
import json
import re
from typing import Final, NoReturn

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from nsharness_mocks.replies import http_problem, problem, unauthorized
from nsharness_mocks.tokens import accepted

HOST: Final = "webhook.local"
MAX_BODY: Final = 64 * 1024
"""Bytes of a document at most."""
BODY_SECONDS: Final = 10.0
"""How long a client may take to send it."""

_ID: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")


def webhook(digest: str | None) -> Starlette:
    """The service; ``digest`` is the SHA-256 of its token in hex, None lets nobody in."""

    async def receive(request: Request) -> Response:
        authorization = request.headers.getlist("authorization")
        if not accepted(authorization, digest):
            return unauthorized(HOST, bool(authorization))
        hook = request.path_params["id"]
        if not _ID.fullmatch(hook):
            return problem(
                400, "bad_id", "an id is 1 to 63 of a-z, 0-9 and hyphen, and does not begin with a hyphen"
            )
        try:
            async with asyncio.timeout(BODY_SECONDS):
                body = await _bounded_body(request)
        except TimeoutError:
            return problem(408, "too_slow", f"the body did not arrive within {BODY_SECONDS:.0f} seconds")
        except ClientDisconnect:
            return problem(400, "cut_short", "the body ended before its end")
        if body is None:
            return problem(413, "too_large", f"a body is at most {MAX_BODY} bytes")
        try:
            json.loads(body, parse_constant=_no_constant)
        except (ValueError, RecursionError):
            return problem(400, "bad_json", "the body is not one JSON document")
        return JSONResponse({"accepted": True, "id": hook}, 202)

    app = Starlette(
        routes=[Route("/webhooks/{id}", receive, methods=["POST"])],
        exception_handlers={404: http_problem, 405: http_problem},
    )
    app.router.redirect_slashes = False  # a redirect would be built from the client's Host header
    return app


async def _bounded_body(request: Request) -> bytes | None:
    """The body, or None as soon as it is known to be too large: never more than that is held."""
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > MAX_BODY:
            return None
    return bytes(body)


def _no_constant(name: str) -> NoReturn:
    """NaN and Infinity are Python's own additions to JSON (RFC 8259 section 6 has none)."""
    raise ValueError(name)
