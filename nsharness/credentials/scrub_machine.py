"""An automaton that follows every possible beginning of a form at once, one step per byte.

A *thread* is one such beginning: a form, the unit it is at, how much of the unit's spelling has been
read, and its age in bytes. A state is the set of its threads; the root has none. States are made when they
are first needed and then kept, so that the usual step is one look-up in a table.

Two threads at the same place of the same form have the same future, so only the older is kept (its
stretch covers the younger's). Hence a state has at most as many threads as the forms have places,
whatever the input; there is nothing to go back to and no budget to exhaust. The kept states are dropped
when their threads exceed a fixed number, which costs time and changes no result.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import NoReturn

from nsharness.credentials.scrub_forms import spellings

# At about 100 bytes each: some 20 MB at most, for the most repetitive secrets only.
_MOST_THREADS = 200_000


class _Node:
    """A place within the spelling of one unit: a trie over ``spellings``."""

    __slots__ = ("children", "end")

    def __init__(self) -> None:
        self.children: dict[int, _Node] = {}
        self.end = False


_Thread = tuple[int, int, _Node, int]


class State:
    """What is known after a byte. ``oldest``: the age in bytes of the oldest thread (0: none).
    ``hit``: the length of the longest occurrence that ends at this byte (0: none)."""

    __slots__ = ("hit", "next", "oldest", "threads")

    def __init__(self, threads: tuple[_Thread, ...], hit: int) -> None:
        self.threads = threads
        self.hit = hit
        self.oldest = max((age for _, _, _, age in threads), default=0)
        self.next: dict[int, State] = {}


class Machine:
    """The automaton of some rows of units. Streams share it and keep a state each; one thread at a time."""

    __slots__ = ("_known", "_rows", "_starts", "_threads", "root", "steps_made")

    def __init__(self, rows: Iterable[Sequence[bytes]]) -> None:
        self._rows = [[_trie(unit) for unit in row] for row in rows if row]
        self._starts: dict[int, list[_Thread]] = {}
        for number, row in enumerate(self._rows):
            for byte in row[0].children:
                self._starts.setdefault(byte, []).append((number, 0, row[0], 0))
        self.root = State((), 0)
        self._known: dict[tuple[tuple[_Thread, ...], int], State] = {((), 0): self.root}
        self._threads = 0
        self.steps_made = 0

    def step(self, state: State, byte: int) -> State:
        """The state after one more byte."""
        following = state.next.get(byte)
        return self.make_step(state, byte) if following is None else following

    def make_step(self, state: State, byte: int) -> State:
        """The same for a step that has not been taken before (or was forgotten)."""
        self.steps_made += 1
        places: dict[tuple[int, int, _Node], int] = {}
        hit = 0
        for number, index, node, age in (*state.threads, *self._starts.get(byte, ())):
            child = node.children.get(byte)
            if child is None:
                continue
            age += 1
            row = self._rows[number]
            if child.end and index + 1 == len(row):
                hit = max(hit, age)
            elif child.end:
                place = (number, index + 1, row[index + 1])
                places[place] = max(age, places.get(place, 0))
            if child.children:
                place = (number, index, child)
                places[place] = max(age, places.get(place, 0))
        threads = tuple((*place, age) for place, age in sorted(places.items(), key=_order))
        following = self._known.get((threads, hit))
        if following is None:
            following = self._remember(State(threads, hit))
        state.next[byte] = following
        return following

    def _remember(self, state: State) -> State:
        self._threads += len(state.threads) + 1
        if self._threads > _MOST_THREADS:
            for known in self._known.values():
                known.next.clear()
            self._known = {((), 0): self.root}
            self._threads = 0
        self._known[state.threads, state.hit] = state
        return state

    def __repr__(self) -> str:
        return f"Machine({len(self._rows)} rows)"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a machine knows secrets and cannot be serialised")


def _order(item: tuple[tuple[int, int, _Node], int]) -> tuple[int, int, int]:
    (number, index, node), _ = item
    return number, index, id(node)


@lru_cache(maxsize=512)
def _trie(unit: bytes) -> _Node:
    """Shared by all machines: it says how a unit is spelled, and nothing of any secret."""
    root = _Node()
    for spelling in spellings(unit):
        node = root
        for byte in spelling:
            node = node.children.setdefault(byte, _Node())
        node.end = True
    return root
