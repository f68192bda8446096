"""Which synthetic address stands for which name in one sandbox.

The stub resolver answers an allowed name with an address of its own, so that the address a
connection was dialled to tells the name that was meant. Addresses are given in order and never
taken back: a name keeps its address for the whole run, also over a restart of the proxy.
"""

from __future__ import annotations

import ipaddress
from functools import lru_cache

from nsharness.policy.authority import SYNTHETIC
from nsharness.policy.hosts import canonical_host, is_ip

MAX_NAMES = 1000
_REMEMBERED = 1024


class NamesError(ValueError):
    """No address for this name: the table is full, or the name is none; or its JSON form is wrong."""


class NameTable:
    """Names and their addresses, both ways. Grows by ``address_of`` only; not safe between threads."""

    def __init__(self) -> None:
        self._index: dict[str, int] = {}
        self._names: list[str] = []

    def address_of(self, name: str) -> str:
        """The IPv4 address of a canonical name, issued at its first use.

        ``NamesError`` for an IP address, for a name that is not canonical, and beyond 1,000 names.
        """
        index = self._index.get(name)
        if index is None:
            index = self._issue(name)
        # The first address of the range would look like the number of a network.
        return str(SYNTHETIC[index + 1])

    def name_of(self, address: str) -> str | None:
        """The name that an address was issued for; None for every other text."""
        index = _place(address)
        return self._names[index] if 0 <= index < len(self._names) else None

    def __len__(self) -> int:
        return len(self._names)

    def to_json(self) -> dict[str, list[str]]:
        """The names in the order of their addresses."""
        return {"names": list(self._names)}

    @classmethod
    def from_json(cls, data: object) -> NameTable:
        """Read what ``to_json`` wrote; every name has the address it had."""
        if not isinstance(data, dict) or set(data) != {"names"} or not isinstance(data["names"], list):
            raise NamesError("a name table is an object with a list of names")
        table = cls()
        for name in data["names"]:
            if not isinstance(name, str) or name in table._index:
                raise NamesError("a name table holds names, each of them once")
            table._issue(name)
        return table

    def _issue(self, name: str) -> int:
        try:
            canonical = canonical_host(name)
        except ValueError as error:
            raise NamesError(str(error)) from None
        if canonical != name or is_ip(name):
            raise NamesError(f"{name!r} is not a canonical name")
        if len(self._names) >= MAX_NAMES:
            raise NamesError(f"{MAX_NAMES} names have addresses already")
        self._index[name] = len(self._names)
        self._names.append(name)
        return self._index[name]


@lru_cache(maxsize=_REMEMBERED)
def _place(address: str) -> int:
    """Which name the address would be of, counted from 0; negative for what is no IPv4 address."""
    try:
        return int(ipaddress.IPv4Address(address)) - int(SYNTHETIC.network_address) - 1
    except ValueError:
        return -1
