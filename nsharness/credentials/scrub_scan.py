"""Places where a form could begin, all found in one pass by Vectorscan (a fork of Hyperscan).

Needles and escapes are the ones of ``scrub_search``, which searches for them one after the other where the
library is not installed: with one secret this takes a tenth of the time, and with a hundred a hundredth. What
is found is the same, or more.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

# Each costs a call from C. Whoever sends more of them than this in one block gains no speed, and loses none.
_MOST_FOUND: Final = 256
# The library counts bytes in 32 bits.
_MOST_BYTES: Final = 1 << 30
_ALIKE: Final = {b"+": b"[-+ ]", b"/": b"[/_]"}

Place = tuple[int, int]
"""From where on the automaton has to run, and the byte that it has to run past."""


class Scanner:
    """Some needles and escapes, compiled. ``ImportError`` where the library is missing,
    ``RuntimeError`` where it cannot work (another processor)."""

    __slots__ = ("_database", "_lengths", "_stopped", "_to_begin")

    def __init__(
        self, needles: Sequence[bytes], escapes: Sequence[bytes], *, longest_escape: int, before_escape: int
    ) -> None:
        """``needles`` are folded; an escape's match has at most ``longest_escape`` bytes, and a form
        begins at most ``before_escape`` bytes before it."""
        import hyperscan

        self._stopped = hyperscan.ScanTerminated
        self._lengths = tuple(map(len, needles))
        self._to_begin = longest_escape + before_escape
        self._database = hyperscan.Database(mode=hyperscan.HS_MODE_BLOCK)
        flags = [hyperscan.HS_FLAG_CASELESS] * len(needles) + [0] * len(escapes)
        try:
            self._database.compile(expressions=[*map(_expression, needles), *escapes], flags=flags)
        except hyperscan.error as error:
            # Without its text, which could quote a needle.
            raise RuntimeError(type(error).__name__) from None

    def anywhere(self, block: bytes) -> bool:
        """Whether there is any place in a whole block."""
        if len(block) > _MOST_BYTES:
            return True
        try:
            self._database.scan(block, _stop)
        except self._stopped:
            return True
        return False

    def places(self, block: bytes) -> list[Place] | None:
        """Every place in a block, in the order of where the automaton has to run; None if there are too
        many for this to be of use."""
        if len(block) > _MOST_BYTES:
            return None
        found: list[Place] = []
        lengths, to_begin = self._lengths, self._to_begin

        def collect(number: int, _from: int, to: int, _flags: int, _context: object) -> bool:
            if number < len(lengths):
                begin = to - lengths[number]
                found.append((begin, begin))
            else:
                found.append((max(0, to - to_begin), to - 1))
            return len(found) > _MOST_FOUND

        try:
            self._database.scan(block, collect)
        except self._stopped:
            return None
        found.sort()
        return found


def _stop(*_: object) -> bool:
    return True


def _expression(needle: bytes) -> bytes:
    """A needle is folded: what it stands for is any case, and either of base64's two alphabets."""
    each = (needle[at : at + 1] for at in range(len(needle)))
    return b"".join(_ALIKE.get(byte, byte if byte.isalnum() else b"\\x%02x" % ord(byte)) for byte in each)
