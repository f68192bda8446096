"""wiki.local: ``GET /snippets/{topic}``, a few paragraphs each, with one fact worth quoting."""

from __future__ import annotations

from types import MappingProxyType
from typing import Final

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from nsharness_mocks.replies import http_problem, problem, unauthorized
from nsharness_mocks.tokens import accepted

HOST: Final = "wiki.local"

SNIPPETS: Final = MappingProxyType(
    {
        "durability": """\
# Durability

A durable run stores the result of every step that it completes. After each crash it starts from the top \
again, but a completed step is not done twice: its stored result is handed back, and work goes on at the \
first step without one. So a key must cover all that decides that result, and a step that changes the world \
outside must bear being done once more, since a crash may fall between the deed and its record.

Fact: A step is durable only once its result is on disk, before anything acts on it.
""",
        "sandboxing": """\
# Sandboxing

A sandbox is worth what its weakest exit is worth. Rules about what a program should not do are guesses at \
what it will try; a namespace without a route needs no guess, because there is nothing to reach. Start from \
nothing, add what the task needs, and put each thing that was added on a list that somebody can read.

Fact: A program cannot leak a credential that was never inside its sandbox.
""",
        "replay": """\
# Replay

Replaying a run means feeding it the answers that it got the first time. That works as far as everything \
from outside (clocks, random numbers, model replies, command output) passes through one recorded door. The \
first value that slips past the door is where the replay and the run part ways.

Fact: A run can be replayed exactly when every input that it did not compute itself was recorded.
""",
    }
)
"""Topic to text. The line that begins with ``Fact: `` is the one to quote."""


def wiki(digest: str | None) -> Starlette:
    """The service; ``digest`` is the SHA-256 of its token in hex, None lets nobody in."""

    async def snippet(request: Request) -> Response:
        authorization = request.headers.getlist("authorization")
        # Before the topic is looked at: without a token nobody learns which topics there are.
        if not accepted(authorization, digest):
            return unauthorized(HOST, bool(authorization))
        text = SNIPPETS.get(request.path_params["topic"])
        if text is None:
            return problem(404, "not_found", f"no such topic; there are: {', '.join(SNIPPETS)}")
        return PlainTextResponse(text)

    app = Starlette(
        routes=[Route("/snippets/{topic}", snippet, methods=["GET"])],
        exception_handlers={404: http_problem, 405: http_problem},
    )
    app.router.redirect_slashes = False  # a redirect would be built from the client's Host header
    return app
