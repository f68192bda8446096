"""The replies that all mock services share: JSON that says what is wrong and what would be right."""

from __future__ import annotations

from http import HTTPStatus

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response


def problem(status: int, error: str, detail: str, **headers: str) -> Response:
    """An error reply: ``error`` is a word for programs, ``detail`` a sentence for people."""
    return JSONResponse({"error": error, "detail": detail}, status, headers=headers)


def unauthorized(host: str, sent: bool) -> Response:
    """401 with the challenge that RFC 9110 section 11.6.1 asks for; ``sent`` says whether one was tried."""
    detail = (
        f"the bearer token is not the one of {host}"
        if sent
        else f"{host} wants the header 'Authorization: Bearer TOKEN'"
    )
    return problem(401, "unauthorized", detail, **{"WWW-Authenticate": f'Bearer realm="{host}"'})


async def http_problem(_request: Request, error: Exception) -> Response:
    """Starlette's own refusals (404, 405) in the same form; it registers this by status code."""
    if not isinstance(error, HTTPException):
        raise error
    status = HTTPStatus(error.status_code)
    word = status.phrase.lower().replace(" ", "_")
    headers = dict(error.headers or {})
    return problem(status, word, status.description or status.phrase, **headers)
