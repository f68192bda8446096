"""Synthetic addresses: one for each name, kept for the run."""

from __future__ import annotations

import ipaddress
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsharness.policy.names import MAX_NAMES, NamesError, NameTable

names = st.text("abc", min_size=1, max_size=4).map(lambda text: f"{text}.example")


@given(st.lists(names, max_size=30))
def test_each_name_has_one_address_of_its_own_and_back(asked: list[str]) -> None:
    """K2: the address that was dialled is the name."""
    table = NameTable()
    given_out: dict[str, str] = {}
    for name in asked:
        address = table.address_of(name)
        assert given_out.setdefault(name, address) == address
        assert ipaddress.IPv4Address(address) in ipaddress.IPv4Network("198.18.0.0/15")
    assert len(set(given_out.values())) == len(given_out) == len(table)
    assert all(table.name_of(address) == name for name, address in given_out.items())


@given(st.lists(names, max_size=30), st.lists(names, max_size=5))
def test_a_table_that_was_read_back_goes_on_as_the_first_would(before: list[str], after: list[str]) -> None:
    table = NameTable()
    for name in before:
        table.address_of(name)
    again = NameTable.from_json(json.loads(json.dumps(table.to_json())))
    assert [again.address_of(name) for name in before + after] == [
        table.address_of(n) for n in before + after
    ]
    assert again.to_json() == table.to_json()


@given(st.one_of(st.text(max_size=20), st.ip_addresses().map(str)))
def test_an_address_that_was_not_issued_has_no_name(text: str) -> None:
    table = NameTable()
    first = table.address_of("wiki.local")
    assert table.name_of(text) == ("wiki.local" if text == first else None)


def test_there_are_a_thousand_names_and_no_more() -> None:
    table = NameTable()
    for number in range(MAX_NAMES):
        table.address_of(f"n{number}.example")
    with pytest.raises(NamesError):
        table.address_of("one.more.example")
    assert table.name_of(table.address_of("n0.example")) == "n0.example"
    assert len(table) == MAX_NAMES


@pytest.mark.parametrize(
    "name", ["", "Wiki.local", "wiki.local.", "192.0.2.7", "2001:db8::7", "a b", "wiki.local\0"]
)
def test_only_canonical_names_have_addresses(name: str) -> None:
    with pytest.raises(NamesError):
        NameTable().address_of(name)


@pytest.mark.parametrize(
    "data",
    [
        None,
        [],
        {},
        {"names": None},
        {"names": [1]},
        {"names": ["a.example", "a.example"]},
        {"names": ["A.example"]},
        {"names": [], "more": 1},
        {"names": [f"n{n}.example" for n in range(MAX_NAMES + 1)]},
    ],
    ids=lambda data: str(data)[:40],
)
def test_what_is_no_table_is_refused(data: object) -> None:
    with pytest.raises(NamesError):
        NameTable.from_json(data)
