"""Where in a block of bytes a form could begin, found at the speed of C.

This decides nothing: it names places from which the automaton has to run, and may name too many, never
too few. It rests on one observation. Take any occurrence of a form, and its first units (up to
``_FIRST``). Either all of them are written as themselves: then, after folding case and base64's two alphabets
together, they are a fixed string (a *needle*), and ``bytes.find`` finds it. Or one of them is an escape: then
an escape of one of these units stands less than ``_FIRST`` bytes behind the beginning, because whatever
precedes the first escape is one byte per unit.

The patterns for escapes have no repetition beyond a fixed number and no nesting, so that a match
attempt takes a bounded number of steps at any place of any input.

All of them are looked for in one pass where ``scrub_scan`` can be used.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Final, NoReturn, Protocol

from nsharness.credentials.scrub_forms import SHORT_ESCAPES, Form, named_entity
from nsharness.credentials.scrub_scan import Place, Scanner

# Long enough that public beginnings (``sk-ant-api03-``) alone are no needle; short enough that a look
# back from an escape is short.
_FIRST = 16
# An escape with four backslashes is seen at the last of them.
_BEFORE_ESCAPE = _FIRST - 1 + 3
_LONGEST_ESCAPE: Final = len(b"&#x00ff;")
_FOLD = bytes.maketrans(b"ABCDEFGHIJKLMNOPQRSTUVWXYZ-_ ", b"abcdefghijklmnopqrstuvwxyz+/+")


class Places(Protocol):
    """One pass over a block, from its first place to its last."""

    def after(self, position: int) -> tuple[int, int]:
        """The next place at or behind ``position``: where the automaton must start, and the last byte of
        which that place was recognised (it must run past it). Past the end if there is none. ``position``
        never goes back."""
        ...


class Search:
    """The needles and escapes of some forms."""

    __slots__ = ("_escapes", "_needles", "_scanner", "anywhere")

    anywhere: Callable[[bytes], bool]
    """Whether there is any place in a whole block: if not, there is no form in it."""

    def __init__(self, forms: Iterable[Form], *, scanned: bool = True) -> None:
        """``scanned``: by the library, where it is installed."""
        firsts = [form.units[:_FIRST] for form in forms]
        needles: list[bytes] = []
        for needle in sorted({b"".join(unit[:1] for unit in first).translate(_FOLD) for first in firsts}):
            # Whatever a needle finds, a beginning of it finds, too, and that sorts before it.
            if not needles or not needle.startswith(needles[-1]):
                needles.append(needle)
        self._needles = tuple(needles)
        self._escapes = _escapes({byte for first in firsts for unit in first for byte in unit})
        self._scanner = self._compiled() if scanned and needles else None
        self.anywhere = self._scanner.anywhere if self._scanner else self._anywhere

    def _compiled(self) -> Scanner | None:
        try:
            return Scanner(
                self._needles,
                [escape.pattern for escape in self._escapes],
                longest_escape=_LONGEST_ESCAPE,
                before_escape=_BEFORE_ESCAPE,
            )
        except (ImportError, RuntimeError):
            return None

    def _anywhere(self, block: bytes) -> bool:
        folded = block.translate(_FOLD)
        for needle in self._needles:
            if needle in folded:
                return True
        # What every escape begins with.
        if b"%" in block or b"\\" in block or b"&" in block:
            return any(escape.search(block) for escape in self._escapes)
        return False

    def over(self, block: bytes, start: int) -> Places:
        """The places in a block, from ``start`` on."""
        if self._scanner and (places := self._scanner.places(block)) is not None:
            return _Listed(places, len(block))
        return _Searched(block, start, self._needles, self._escapes)

    def __repr__(self) -> str:
        return f"Search({len(self._needles)} needles)"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a search knows secrets and cannot be serialised")


class _Listed:
    """All places are known."""

    __slots__ = ("_next", "_none", "_places")

    def __init__(self, places: list[Place], none: int) -> None:
        self._places = iter(places)
        self._none = (none, none)
        self._next = next(self._places, self._none)

    def after(self, position: int) -> tuple[int, int]:
        while self._next[1] < position and self._next is not self._none:
            self._next = next(self._places, self._none)
        begin, seen = self._next
        return max(begin, position), seen


class _Searched:
    """What has been found is remembered, so that each byte is searched once."""

    __slots__ = ("_block", "_folded", "_found", "_needles", "_searches", "_start")

    def __init__(
        self,
        block: bytes,
        start: int,
        needles: tuple[bytes, ...],
        escapes: tuple[re.Pattern[bytes], ...],
    ) -> None:
        self._block = block
        self._folded = block.translate(_FOLD)
        self._needles = needles
        self._searches = escapes
        self._found = [-1] * (len(needles) + len(escapes))
        self._start = start

    def after(self, position: int) -> tuple[int, int]:
        none = len(self._block)
        found = self._found
        needles = self._needles
        begin = seen = none
        for number, place in enumerate(found):
            if place < position:
                if number < len(needles):
                    place = self._folded.find(needles[number], position)
                else:
                    match = self._searches[number - len(needles)].search(self._block, position)
                    place = match.start() if match else -1
                found[number] = place = place if place >= 0 else none
            if place < none:
                where = place if number < len(needles) else max(position, place - _BEFORE_ESCAPE)
                if where < begin:
                    begin = where
                    seen = place
        return begin, seen


def _escapes(of: set[int]) -> tuple[re.Pattern[bytes], ...]:
    """One pattern for each byte that introduces escapes: a pattern with a literal first byte is
    searched for with memchr."""
    pair = _hexadecimal(of)
    codes = b"|".join(b"%d" % byte for byte in sorted(of))
    short = b"".join(re.escape(bytes((byte,))) for byte in sorted(of & SHORT_ESCAPES))
    slash = b"|[" + short + b"]" if short else b""
    named = b"".join(b"|" + name for byte in sorted(of) if (name := named_entity(byte)))
    if not of:
        return ()
    return (
        re.compile(b"%(?:25){0,2}(?:" + pair + b")"),
        re.compile(rb"\\(?:(?:u00|x)(?:" + pair + b")" + slash + b")"),
        re.compile(b"&(?:#(?:0{0,2}(?:" + codes + b")|[xX]0{0,2}(?:" + pair + b"))" + named + b");"),
    )


def _hexadecimal(of: set[int]) -> bytes:
    """A pattern for two digits, in either case, that give one of these bytes."""
    rows: dict[str, str] = {}
    for byte in sorted(of):
        first, second = f"{byte >> 4:x}", f"{byte & 15:x}"
        rows[first] = rows.get(first, "") + second + (second.upper() if second.isalpha() else "")
    return "|".join(
        (f"[{first}{first.upper()}]" if first.isalpha() else first) + f"[{seconds}]"
        for first, seconds in rows.items()
    ).encode()
