"""Take every form of every secret out of what goes to the workload, as it streams by.

An occurrence is overwritten by as many ``*`` as it has bytes. The same length, because then nothing
around it has to change: Content-Length, ranges and offsets, chunk sizes, WebSocket frame headers, SSE
fields and JSON strings stay what they were (``*`` needs no escape in any of them, nor in a URL or a
header value), and the text around a secret cannot be misread through the replacement. What the length
tells is public.
Occurrences that overlap or contain each other are overwritten together; nothing else changes.

**Finding.** ``scrub_search`` names the places where a form could begin, at C speed; from there the
automaton of ``scrub_machine`` runs until no beginning is alive. The last bytes of a block, where a form
may have begun that ends in the next, always go through the automaton.

**Cost.** Neither goes back: a byte is searched once by each needle and pattern and stepped over at most
once by the automaton (``Stream.steps`` counts). When places are dense the automaton stays on for a while
instead of asking again, so a hostile body costs the automaton's speed (about ten megabytes a second) and
no more. There is no limit on matches, therefore none that could be used up.

**Holding back.** A stream must keep what could be the beginning of a secret until it knows better. To keep
exactly that would tell a workload that can have its own bytes echoed in pieces whether they are such a
beginning: it would read the secret out letter by letter. So what is kept depends only on what is public:
the trailing run of bytes that any form could consist of, from the first public beginning in it (``ghp_``, in
any form) where all secrets have one, and at most one byte less than the longest form. A newline, a
space, a quote or a brace ends such a run, so an SSE event or a JSON object is never kept. (Secrets with
other characters than tokens have may contain those as well: with them, only control characters and bytes
beyond ASCII end a run.) How long a search takes does depend on the secrets, by nanoseconds per place where
one could begin; that is not hidden.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import AnyStr, NoReturn

from nsharness.credentials.scrub_forms import forms_of, spellings, values_of
from nsharness.credentials.scrub_machine import Machine
from nsharness.credentials.scrub_search import Places, Search
from nsharness.credentials.secret import Secret

MASK = b"*"

# What tokens consist of (RFC 6750 section 2.1), and escapes and base64 of them.
_TOKEN = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~+/=" + b"%\\&#;"
_VISIBLE = bytes(range(0x20, 0x7F))

# Places closer together than this are dense; how long the automaton then stays on, at least and at most.
_DENSE = 64
_STAY = (128, 8192)


class Scrubber:
    """Knows the forms of some secrets; shows none of them. Cheap to share, costly (milliseconds) to make."""

    __slots__ = ("_alphabet", "_heads", "_longest", "_machine", "_search")

    def __init__(self, secrets: Iterable[Secret], *, scanned: bool = True) -> None:
        """``secrets`` are header values, as in a credential map, or bare secrets. ``ValueError``, without
        the value, for one that cannot be a header value and so could not be recognised reliably.
        ``scanned`` as for ``Search``: what is found is the same."""
        values = sorted({value for secret in secrets for value in values_of(secret.reveal())})
        forms = forms_of(values)
        self._machine = Machine(form.units for form in forms)
        self._search = Search(forms, scanned=scanned)
        self._longest = max(
            (sum(max(map(len, spellings(unit))) for unit in form.units) for form in forms), default=1
        )
        plain = all(byte in _TOKEN for value in values for byte in value.encode())
        self._alphabet = _TOKEN if plain else _VISIBLE
        # Without a public beginning every byte of a run could be the first.
        public = all(form.head for form in forms)
        self._heads = Machine(form.units[: form.head] for form in forms) if public else None

    @property
    def look_behind(self) -> int:
        """The most bytes that a stream ever holds back."""
        return self._longest - 1

    def stream(self) -> Stream:
        """For one body, one WebSocket message, one direction."""
        return Stream(self._machine, self._search, self._heads, self._alphabet, self._longest)

    def text(self, whole: AnyStr) -> AnyStr:
        """Something that is there as a whole (a header value, a reason phrase, an error page), scrubbed."""
        if isinstance(whole, str):
            data = whole.encode("utf-8", "surrogateescape")
            clean = self._scrubbed(data)
            return whole if clean is data else clean.decode("utf-8", "surrogateescape")
        return self._scrubbed(whole)

    def finds(self, whole: str | bytes) -> bool:
        """Whether a secret is in it in any form: for requests to a host that is not entitled."""
        data = whole.encode("utf-8", "surrogateescape") if isinstance(whole, str) else whole
        if not self._search.anywhere(data):
            return False
        stream = self.stream()
        stream.feed_last(data)
        return stream.found

    def _scrubbed(self, data: bytes) -> bytes:
        return self.stream().feed_last(data) if self._search.anywhere(data) else data

    def __repr__(self) -> str:
        return "Scrubber(***)"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a scrubber knows secrets and cannot be serialised")


class Stream:
    """One sequence of bytes on its way: ``feed`` each piece, then ``finish``.

    ``count`` is how many stretches were overwritten so far, ``steps`` how many bytes the automaton
    looked at. To detect only, ignore what ``feed`` returns and look at ``found``, which is true as soon as
    an occurrence is complete: hold back nothing of your own, but send a piece only after looking.
    """

    __slots__ = (
        "_alphabet",
        "_base",
        "_head_from",
        "_head_state",
        "_heads",
        "_held",
        "_longest",
        "_machine",
        "_search",
        "_spans",
        "_state",
        "count",
        "found",
        "steps",
    )

    def __init__(
        self, machine: Machine, search: Search, heads: Machine | None, alphabet: bytes, longest: int
    ) -> None:
        self._machine = machine
        self._search = search
        self._heads = heads
        self._alphabet = alphabet
        self._longest = longest
        self._state = machine.root
        self._head_state = heads.root if heads else machine.root
        self._head_from = -1
        self._held = b""
        self._base = 0  # how many bytes came out before the held ones
        self._spans: list[tuple[int, int]] = []  # to be overwritten, counted from the stream's beginning
        self.count = 0
        self.found = False
        self.steps = 0

    @property
    def held(self) -> int:
        """How many bytes are held back now."""
        return len(self._held)

    def feed(self, data: bytes) -> bytes:
        """What can go on, of this piece and of what was held back. Any size; empty is allowed."""
        if not data:
            return b""
        known = len(self._held)
        block = self._held + data if known else bytes(data)
        run = self._run_start(block)
        self._scan(block, known, run)
        return self._release(block, self._hold_from(block, known, run))

    def finish(self) -> bytes:
        """The rest: at the end of the body (also if it was cut off). The stream is then as new."""
        return self.feed_last(b"")

    def feed_last(self, data: bytes) -> bytes:
        """``feed`` and ``finish`` in one, cheaper."""
        block = self._held + data if self._held else bytes(data)
        if self._state is self._machine.root and not self._spans and not self._search.anywhere(block):
            self._held = b""
            self._base += len(block)
            return block
        self._scan(block, len(self._held), len(block))
        out = self._release(block, len(block))
        self._state = self._machine.root
        return out

    def _run_start(self, block: bytes) -> int:
        """Where the trailing run of bytes begins that an unfinished form could consist of."""
        tail = block[-(self._longest - 1) :] if self._longest > 1 else b""
        return len(block) - len(tail) + len(tail.rstrip(self._alphabet))

    def _scan(self, block: bytes, position: int, tail: int) -> None:
        """Run the automaton wherever a form could begin, and from ``tail`` to the end in any case."""
        if self._state is not self._machine.root:
            position = self._advance(block, position, position)
        if position < tail:
            places = self._search.over(block, position)
            position = self._search_on(places, block, position, tail)
        if position < len(block):
            self._advance(block, position, len(block))

    def _search_on(self, places: Places, block: bytes, position: int, tail: int) -> int:
        stay = 0
        while True:
            begin, seen = places.after(position)
            if begin >= tail:
                return max(position, tail)
            stay = min(2 * stay or _STAY[0], _STAY[1]) if seen - position < _DENSE else 0
            position = self._advance(block, begin, max(seen + 1, begin + stay))
            if position >= tail:
                return position

    def _advance(self, block: bytes, begin: int, least: int) -> int:
        """Step from ``begin`` at least to ``least``, then until no form is alive; say where that was."""
        state = self._state
        machine = self._machine
        root = machine.root
        position = begin
        for byte in memoryview(block)[begin:]:
            following = state.next.get(byte)
            state = machine.make_step(state, byte) if following is None else following
            position += 1
            if state.hit:
                self._mark(self._base + position - state.hit, self._base + position)
            elif state is root and position >= least:
                break
        self._state = state
        self.steps += position - begin
        return position

    def _mark(self, start: int, end: int) -> None:
        self.found = True
        self.count += 1
        while self._spans and self._spans[-1][1] >= start:
            last, _ = self._spans.pop()
            start = min(start, last)
            self.count -= 1
        self._spans.append((start, end))

    def _hold_from(self, block: bytes, known: int, run: int) -> int:
        """From where on bytes are held back. Must not depend on anything but the public parts of secrets."""
        if self._heads is None:
            return run
        if run > known:
            # A new run (perhaps empty), or one so long that what came before is out of reach.
            self._head_state = self._heads.root
            self._head_from = -1
        begin = max(run, known)
        state = self._head_state
        for position, byte in enumerate(memoryview(block)[begin:], self._base + begin + 1):
            state = self._heads.step(state, byte)
            if state.hit and (self._head_from < 0 or position - state.hit < self._head_from):
                self._head_from = position - state.hit
        self._head_state = state
        begun = self._base + len(block) - state.oldest
        if self._head_from >= 0:
            begun = min(begun, self._head_from)
        return max(run, begun - self._base)

    def _release(self, block: bytes, end: int) -> bytes:
        out = self._masked(block, end) if self._spans else block[:end]
        self._held = block[end:]
        self._base += end
        return out

    def _masked(self, block: bytes, end: int) -> bytes:
        out = bytearray(block[:end])
        for start, stop in self._spans:
            first, last = max(0, start - self._base), min(end, stop - self._base)
            if first < last:
                out[first:last] = MASK * (last - first)
        # The last one is kept even when it is out: an overlapping or longer one may follow.
        self._spans = [span for span in self._spans if span[1] >= self._base + end]
        return bytes(out)

    def __repr__(self) -> str:
        return f"Stream(count={self.count}, held={self.held})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a stream knows secrets and cannot be serialised")
