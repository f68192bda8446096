"""One question for each host, so many and no more, and an end for each."""

from __future__ import annotations

import asyncio
from typing import Any

from nsharness.policy.asking import MAX_QUESTIONS
from nsharness.policy.request import RequestView
from nsharness_proxy.asking import MAX_AGAIN, MAX_WAITING, Questions


def request(host: str) -> RequestView:
    return RequestView("GET", "https", host, 443, "/")


class Asked:
    """Questions, what was told of them, and tasks that wait."""

    def __init__(self) -> None:
        self.told: list[dict[str, Any]] = []
        self.questions = Questions(self.told.append)

    def wait(self, host: str, seconds: float = 60, gone: asyncio.Event | None = None) -> asyncio.Task[str]:
        waiting = self.questions.answer(request(host), seconds, gone or asyncio.Event())
        return asyncio.ensure_future(waiting)

    def posed(self) -> list[str]:
        return [each["host"] for each in self.told if each["event"] == "question"]

    def over(self) -> list[tuple[str, str]]:
        return [(each["host"], each["why"]) for each in self.told if each["event"] == "question-over"]


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def test_requests_to_one_host_are_one_question_and_have_one_answer() -> None:
    async def run() -> None:
        asked = Asked()
        waits = [asked.wait("a.example") for _ in range(50)]
        await settle()
        assert asked.posed() == ["a.example"]
        asked.questions.reconsider(lambda host: host != "a.example")
        assert [await each for each in waits] == [""] * 50
        assert asked.over() == [("a.example", "")]
        # A yes that was taken back: it is asked again.
        again = asked.wait("a.example")
        await settle()
        asked.questions.refuse("a.example")
        assert await again == "ask-never"
        assert await asked.wait("a.example") == "ask-never"
        assert asked.posed() == ["a.example"] * 2

    asyncio.run(run())


def test_a_question_lives_as_long_as_somebody_waits_for_it() -> None:
    async def run() -> None:
        asked, first, second = Asked(), asyncio.Event(), asyncio.Event()
        waits = [asked.wait("a.example", gone=gone) for gone in (first, second)]
        await settle()
        first.set()
        assert await waits[0] == "ask-withdrawn"
        assert asked.over() == []
        second.set()
        assert await waits[1] == "ask-withdrawn"
        assert asked.over() == [("a.example", "ask-withdrawn")]
        outcomes = []
        for _ in range(MAX_AGAIN):
            gone = asyncio.Event()
            gone.set()
            outcomes.append(await asked.wait("a.example", gone=gone))
        assert outcomes == ["ask-withdrawn"] * (MAX_AGAIN - 1) + ["ask-too-many"]

    asyncio.run(run())


def test_time_runs_from_the_first_request_and_is_over_for_all() -> None:
    async def run() -> None:
        asked = Asked()
        waits = [asked.wait("a.example", 0.01), asked.wait("a.example", 3600)]
        assert [await each for each in waits] == ["ask-timeout"] * 2
        assert asked.questions.settled("a.example")
        assert await asked.wait("a.example") == "ask-timeout"
        assert len(asked.posed()) == 1

    asyncio.run(run())


def test_questions_are_bounded_at_a_time_and_in_a_run() -> None:
    """Whoever is asked without end says yes at some point."""

    async def run() -> None:
        asked = Asked()
        waits = [asked.wait(f"h{number}.example") for number in range(MAX_WAITING)]
        await settle()
        assert await asked.wait("more.example") == "ask-too-many"
        for each in waits:
            each.cancel()
        await settle()
        assert len(asked.over()) == MAX_WAITING
        for number in range(MAX_QUESTIONS):
            gone = asyncio.Event()
            gone.set()
            await asked.wait(f"h{number}.example", gone=gone)
        assert await asked.wait("another.example") == "ask-too-many"
        assert len(set(asked.posed())) == MAX_QUESTIONS

    asyncio.run(run())
