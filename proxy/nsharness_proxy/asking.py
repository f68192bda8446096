"""Requests that wait for a person's answer, one question for each host however many of them there are.

Waiting decides nothing. When it is over the request is decided on like any other, by the policy as it is
then: a yes is a policy that names the host, so everything else that ends the wait (a no, the end of its time,
no answer at all) leaves the request denied, and says why.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from nsharness.policy.asking import MAX_QUESTIONS
from nsharness.policy.request import RequestView

Outcome = Literal["", "ask-timeout", "ask-never", "ask-withdrawn", "ask-too-many"]
"""How a wait ended: empty when policy changed, else the reason for the denial that follows."""

MAX_WAITING: Final = 16
"""Questions of one sandbox that are open at the same time; requests to further hosts are denied at once."""
MAX_AGAIN: Final = 10
"""How often it is asked about one host, when clients go away before there is an answer."""
MAX_REQUESTS: Final = 1000
"""Requests that wait at the same time; further ones are denied at once."""

HINTS: Final[dict[str, str]] = {
    "ask-timeout": "nobody has answered whether this host may be reached",
    "ask-never": "somebody has answered that this host may not be reached",
    "ask-withdrawn": "the client went away before there was an answer",
    "ask-too-many": "too many questions were asked, or wait for an answer",
}

Tell = Callable[[dict[str, Any]], None]


@dataclass(slots=True, eq=False)
class _Question:
    number: int
    over: asyncio.Event = field(default_factory=asyncio.Event)
    outcome: Outcome = "ask-withdrawn"
    waiting: int = 0


class Questions:
    """Those of one sandbox. ``tell`` sends an event to whoever has the person."""

    def __init__(self, tell: Tell) -> None:
        self._tell = tell
        self._open: dict[str, _Question] = {}
        self._settled: dict[str, Outcome] = {}
        self._asked: dict[str, int] = {}
        self._requests = 0

    def settled(self, host: str) -> bool:
        """Whether nobody is asked about a canonical host: there was an answer, or time enough for one."""
        return host in self._settled

    async def answer(self, asked: RequestView, seconds: float, gone: asyncio.Event) -> Outcome:
        """Wait for the answer about a request's host: until there is one, its time is over, or the client is
        ``gone``."""
        host = asked.host
        if host in self._settled:
            return self._settled[host]
        if self._requests >= MAX_REQUESTS:
            return "ask-too-many"
        question = self._open.get(host)
        if question is None:
            often = self._asked.get(host, 0) >= MAX_AGAIN
            if len(self._open) >= MAX_WAITING or often or len({*self._asked, host}) > MAX_QUESTIONS:
                return "ask-too-many"
            question = self._pose(asked, seconds)
        question.waiting += 1
        self._requests += 1
        waits = [asyncio.ensure_future(each.wait()) for each in (question.over, gone)]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in waits:
                each.cancel()
            self._requests -= 1
            question.waiting -= 1
            if not question.waiting and self._open.get(host) is question:
                self._end(host, "ask-withdrawn")
        return question.outcome if question.over.is_set() and not gone.is_set() else "ask-withdrawn"

    def _pose(self, asked: RequestView, seconds: float) -> _Question:
        self._asked[asked.host] = self._asked.get(asked.host, 0) + 1
        question = _Question(sum(self._asked.values()))
        self._open[asked.host] = question
        asyncio.get_running_loop().call_later(seconds, self._expire, asked.host, question)
        facts = {"method": asked.method[:32], "scheme": asked.scheme, "port": asked.port}
        until = time.monotonic() + seconds
        self._tell(
            {"event": "question", "host": asked.host, "number": question.number, "until": until, **facts}
        )
        return question

    def _expire(self, host: str, question: _Question) -> None:
        if self._open.get(host) is question:
            self._settled[host] = "ask-timeout"
            self._end(host, "ask-timeout")

    def refuse(self, host: str) -> None:
        """Somebody said no: what waits for the host is denied, and so is what comes."""
        if len(self._settled) < MAX_QUESTIONS or host in self._settled:
            self._settled[host] = "ask-never"
        self._end(host, "ask-never")

    def reconsider(self, unknown: Callable[[str], bool]) -> None:
        """Policy has changed: what waits for a host that is not ``unknown`` any more is decided on now."""
        for host in [host for host in self._open if not unknown(host)]:
            self._end(host, "")
        for host in [host for host in self._settled if not unknown(host)]:
            del self._settled[host]

    def _end(self, host: str, outcome: Outcome) -> None:
        question = self._open.pop(host, None)
        if question is not None:
            question.outcome = outcome
            question.over.set()
            self._tell({"event": "question-over", "host": host, "number": question.number, "why": outcome})
