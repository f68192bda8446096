"""What a person is asked about a run's sandboxes: what waits, and what was answered.

The proxy poses questions and ends them; here they are kept for whoever shows them to a person. Nothing in a
question is the workload's own text but a canonical host.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Final, Literal

from nsharness.frozen import frozen
from nsharness.supervisor.channel import Message

State = Literal["waiting", "unanswered", "allowed", "denied"]
_MAX_KEPT: Final = 200
"""Twice as many as the proxy asks in one run."""


@frozen
class Question:
    """May ``sandbox`` reach ``host``? It waits until ``until``, in seconds of the monotonic clock. Method,
    scheme and port are those of the first request that waits."""

    sandbox: str
    host: str
    method: str
    scheme: str
    port: int
    until: float

    @property
    def seconds(self) -> int:
        """How long it goes on waiting."""
        return max(0, round(self.until - time.monotonic()))

    @property
    def text(self) -> str:
        """The host and the request, as a person may be shown them."""
        from nsharness.policy.asking import shown_host, shown_method

        return f"{shown_host(self.host)} ({shown_method(self.method)}, {self.scheme}, port {self.port})"


Watcher = Callable[[Question, bool], None]
"""Called with a question when it is posed, and again, with True, when it is over. In the hub's thread."""


class Questions:
    """Of all sandboxes of one proxy. Safe between threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: dict[tuple[str, str], Question] = {}
        self._states: dict[tuple[str, str], State] = {}
        self._watchers: list[Watcher] = []

    @contextlib.contextmanager
    def watched(self, watcher: Watcher) -> Iterator[None]:
        """Within the block ``watcher`` is told, of those that wait already as well."""
        with self._lock:
            self._watchers.append(watcher)
            waiting = list(self._open.values())
        for question in waiting:
            watcher(question, False)
        try:
            yield
        finally:
            with self._lock:
                self._watchers.remove(watcher)

    def posed(self, message: Message) -> Question | None:
        """The proxy asks; None for what is no question that could be shown."""
        from nsharness.policy.asking import shown_host

        try:
            question = Question(
                str(message["sandbox"]),
                str(message["host"]),
                str(message["method"]),
                "https" if message["scheme"] == "https" else "http",
                int(message["port"]),
                float(message["until"]),
            )
            shown_host(question.host)
        except (KeyError, TypeError, ValueError):
            return None
        key = (question.sandbox, question.host)
        with self._lock:
            self._open[key] = question
            self._keep(key, "waiting")
        self._tell(question, over=False)
        return question

    def over(self, sandbox: str, host: str) -> None:
        """It waits no more. Whether there was an answer is said by ``answered``."""
        with self._lock:
            question = self._open.pop((sandbox, host), None)
            if self._states.get((sandbox, host)) == "waiting":
                self._states[sandbox, host] = "unanswered"
        if question is not None:
            self._tell(question, over=True)

    def clear(self) -> None:
        """The proxy is gone, and with it everything that waited."""
        with self._lock:
            keys = list(self._open)
        for sandbox, host in keys:
            self.over(sandbox, host)

    def answered(self, sandbox: str, host: str, state: State) -> State:
        """Somebody said yes (``allowed``) or no (``denied``). Returns what it was before."""
        with self._lock:
            before = self._states.get((sandbox, host), "unanswered")
            self._keep((sandbox, host), state)
            return before

    def hosts(self, sandbox: str, state: State) -> list[str]:
        """Those that are in a state, in the order of their questions."""
        with self._lock:
            return [host for (of, host), now in self._states.items() if of == sandbox and now == state]

    def listing(self, sandbox: str) -> list[dict[str, Any]]:
        """Every host that was asked about, as JSON objects: ``host``, ``state``, and while it waits ``text``
        and ``seconds``."""
        with self._lock:
            states = [(host, state) for (of, host), state in self._states.items() if of == sandbox]
            waiting = {host: question for (of, host), question in self._open.items() if of == sandbox}
        rows: list[dict[str, Any]] = []
        for host, state in states:
            row: dict[str, Any] = {"host": host, "state": state}
            if state == "waiting" and host in waiting:
                row |= {"text": waiting[host].text, "seconds": waiting[host].seconds}
            rows.append(row)
        return rows

    def _keep(self, key: tuple[str, str], state: State) -> None:
        if key in self._states or len(self._states) < _MAX_KEPT:
            self._states[key] = state

    def _tell(self, question: Question, *, over: bool) -> None:
        with self._lock:
            watchers = list(self._watchers)
        for watcher in watchers:
            watcher(question, over)
