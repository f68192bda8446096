"""Questions at the terminal that a command runs in, which the command can neither answer nor fake.

The command has a terminal of its own; ours is in raw mode, and everything between the two goes through the
relay. While a question is there, the relay holds back what the command writes, and no key reaches it. So:

- The command cannot change what the question looks like once it is there. What it wrote before may have left
  the terminal in any state; so that is put right first, and the question comes on lines that are new.
- The command cannot make the terminal type the answer (terminals answer queries, and some report a title
  that a program has set): an answer has a code in it, new for each question, which only a person sees.
- What a person was typing for the command is no answer: it has no code. And a question that the command
  prints itself leads nowhere: what is typed then goes to the command.
"""

from __future__ import annotations

import contextlib
import queue
import re
import secrets
import sys
import threading
from collections import OrderedDict
from collections.abc import Callable
from types import TracebackType
from typing import Final, Literal

from nsharness.cli.relay import Relay
from nsharness.errors import NsharnessError
from nsharness.policy.asking import Answer
from nsharness.supervisor.answers import Answers
from nsharness.supervisor.console import printable
from nsharness.supervisor.questions import Question, Questions

# Without what looks alike. Four of them are 810,000 codes, and there are three tries.
_LETTERS: Final = "abcdefghjkmnpqrstuvwxyz23456789"
_LENGTH: Final = 4
_TRIES: Final = 3
_MAX_LINE: Final = 100
_WORDS: Final[tuple[Answer, ...]] = ("once", "always", "never")

# What a program may have left behind: an unfinished sequence or string (CAN, ST), output that goes to a
# printer or waits; colours, hidden text, other character sets, insert mode, no wrapping, a window that
# scrolls, reversed or redefined colours, enhanced keys. See xterm's ctlseqs. Then on to new lines.
_BEGIN: Final = (
    "\x1b\x03\x18\x1b\\\x1b[4i\x1b[?2026l\x1b[0m\x1b(B\x0f\x1b[4l\x1b[?7h\x1b[?6l\x1b[?69l\x1b[r\x1b[?5l\x1b[?25h"
    "\x1b]104\x1b\\\x1b]110\x1b\\\x1b]111\x1b\\\x1b[>0u\x1b[999;1H\r\n"
)
_END: Final = "\x1b[<u\r\n"
_SEQUENCE: Final = re.compile(r"\x1b(?:\[M...|\[[0-?]*[ -/]*[@-~]|O.|[\]P_^].*?(?:\x07|\x1b\\)|.)", re.DOTALL)


def new_code() -> str:
    """What an answer to one question has in it."""
    return "".join(secrets.choice(_LETTERS) for _ in range(_LENGTH))


def question_text(question: Question, code: str) -> str:
    """The question, with the line ends of a raw terminal. All of it is ours but the host, which is shown as
    ``shown_host`` has it."""
    lines = [
        "nsharness: the command asks for a host that no rule names:",
        "",
        f"    {question.text}",
        "",
        f"May it, without any credential? Type an answer and the code {code}, then Enter:",
        f"  once {code}     yes, as long as this run lasts",
        f"  always {code}   yes, and add it to the profile",
        f"  never {code}    no, in this run",
        f"Nothing within {question.seconds} s is a no. Ctrl-C leaves the answer to nsharness approve.",
        "> ",
    ]
    return "\r\n".join(printable(line, keep="") for line in lines)


class Reading:
    """The keys that are typed as the answer to one question. ``echo`` shows what is typed."""

    def __init__(self, code: str, echo: Callable[[str], None]) -> None:
        self._code = code
        self._echo = echo
        self._line = ""
        self._tries = _TRIES

    def feed(self, data: bytes) -> Answer | Literal["later"] | None:
        """The answer, once it is there; ``later`` when it is left to others or was wrong too often."""
        for key in _SEQUENCE.sub("", data.decode("utf-8", "replace")):
            if key == "\x03":
                return "later"
            if key in "\r\n":
                answer = self._whole()
                if answer is not None:
                    return answer
            elif key in "\x7f\b" and self._line:
                self._line = self._line[:-1]
                self._echo("\b \b")
            elif key == "\x15":
                self._echo("\b \b" * len(self._line))
                self._line = ""
            elif key.isascii() and key.isprintable() and len(self._line) < _MAX_LINE:
                self._line += key
                self._echo(key)
        return None

    def _whole(self) -> Answer | Literal["later"] | None:
        words, self._line = self._line.lower().split(), ""
        for word in _WORDS:
            if words == [word, self._code]:
                return word
        if words:
            self._tries -= 1
        if not self._tries:
            return "later"
        self._echo(f"\r\nAn answer is one of: {', '.join(f'{word} {self._code}' for word in _WORDS)}\r\n> ")
        return None


_Event = tuple[Literal["posed", "over", "keys", "end"], Question | bytes | None]


class Asker:
    """A context manager: within the block questions are asked at our terminal, where the command has one of
    its own, and otherwise told of on standard error, once each."""

    def __init__(self, relay: Relay, questions: Questions, answers: Answers) -> None:
        self._relay = relay
        self._questions = questions
        self._answers = answers
        self._events: queue.SimpleQueue[_Event] = queue.SimpleQueue()
        self._waiting: OrderedDict[tuple[str, str], Question] = OrderedDict()
        self._ended = False
        self._stack = contextlib.ExitStack()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Asker:
        self._thread.start()
        self._stack.enter_context(self._questions.watched(self._note))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()
        self._events.put(("end", None))
        self._thread.join()

    def _note(self, question: Question, over: bool) -> None:
        self._events.put(("over" if over else "posed", question))

    def _run(self) -> None:
        while not self._ended:
            self._take(self._events.get())
            while self._waiting and not self._ended:
                _, question = self._waiting.popitem(last=False)
                if self._relay.has_terminal:
                    self._ask(question)
                else:
                    self._tell(question)

    def _take(self, event: _Event) -> None:
        kind, what = event
        if kind == "end":
            self._ended = True
        elif isinstance(what, Question):
            key = (what.sandbox, what.host)
            if kind == "posed":
                self._waiting[key] = what
            else:
                self._waiting.pop(key, None)

    def _tell(self, question: Question) -> None:
        text = f"waits for an answer about {question.text}: nsharness approve {question.sandbox}"
        with contextlib.suppress(OSError):
            print(f"nsharness: {text}", file=sys.stderr, flush=True)

    def _ask(self, question: Question) -> None:
        def keys(data: bytes) -> None:
            self._events.put(("keys", data))

        code = new_code()
        with self._relay.held(keys) as write:
            write(_BEGIN + question_text(question, code))
            given = self._answer(question, Reading(code, write))
            write(f"\r\n{self._put(question, given)}{_END}")

    def _answer(self, question: Question, reading: Reading) -> Answer | Literal["later", "over"]:
        """What was typed; ``over`` when the question is, however that came."""
        while not self._ended:
            kind, what = event = self._events.get()
            if isinstance(what, bytes):
                if (given := reading.feed(what)) is not None:
                    return given
            elif kind == "over" and isinstance(what, Question):
                if (what.sandbox, what.host) == (question.sandbox, question.host):
                    return "over"
                self._take(event)
            else:
                self._take(event)
        return "over"

    def _put(self, question: Question, given: Answer | Literal["later", "over"]) -> str:
        """Put an answer in force, and say what came of it."""
        if given == "over":
            return "nsharness: it waits no more."
        if given == "later":
            return f"nsharness: it goes on waiting for: nsharness approve {question.sandbox}"
        try:
            text = self._answers.give(question.host, given)
        except NsharnessError as error:
            text = str(error)
        return "\r\n".join(f"nsharness: {printable(line)}" for line in text.splitlines())
