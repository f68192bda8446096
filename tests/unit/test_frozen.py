"""Frozen values are what dataclasses of the same fields are."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from collections.abc import Callable
from typing import Any

import pytest

from nsharness.frozen import as_dict, field, frozen, replace


@frozen
class Ours:
    """One of ours."""

    name: str
    values: list[int] = field(default_factory=list)
    inner: tuple[Inner, ...] = ()
    hidden: str = field(default="s3cret", shown=False)

    @property
    def first(self) -> str:
        """Something of its own."""
        return self.name[:1]


@frozen
class Inner:
    """One in another."""

    number: int

    def __post_init__(self) -> None:
        if self.number < 0:
            raise ValueError("negative")


@dataclasses.dataclass(frozen=True, slots=True)
class Theirs:
    """The same as a dataclass."""

    name: str
    values: list[int] = dataclasses.field(default_factory=list)
    inner: tuple[Inner, ...] = ()
    hidden: str = dataclasses.field(default="s3cret", repr=False)


def test_it_is_made_like_a_dataclass() -> None:
    for arguments, named in ((("a",), {}), (("a", [1]), {"hidden": "x"}), ((), {"name": "a"})):
        ours, theirs = Ours(*arguments, **named), Theirs(*arguments, **named)  # type: ignore[arg-type]
        assert as_dict(ours) == dataclasses.asdict(theirs)
        assert repr(ours) == repr(theirs).replace("Theirs", "Ours")
    assert Ours("a").values is not Ours("a").values
    assert Ours("abc").first == "a"


@pytest.mark.parametrize(
    "make",
    [
        lambda kind: kind(),
        lambda kind: kind("a", name="b"),
        lambda kind: kind("a", other=1),
        lambda kind: kind("a", [], (), "x", "y"),
    ],
)
@pytest.mark.parametrize("kind", [Ours, Theirs])
def test_wrong_arguments_are_refused(make: Callable[[Any], object], kind: type) -> None:
    with pytest.raises(TypeError):
        make(kind)


def test_it_never_changes() -> None:
    value = Inner(1)
    with pytest.raises(AttributeError, match="frozen"):
        value.number = 2  # type: ignore[misc]
    with pytest.raises(AttributeError, match="frozen"):
        del value.number
    with pytest.raises(AttributeError):
        object.__setattr__(value, "other", 1)
    assert not hasattr(value, "__dict__")
    assert replace(value, number=2) == Inner(2)
    with pytest.raises(ValueError, match="negative"):
        replace(value, number=-1)
    with pytest.raises(TypeError):
        replace(value, other=1)


def test_equal_values_are_equal_and_others_are_not() -> None:
    assert Inner(1) == Inner(1) != Inner(2)
    assert hash(Inner(1)) == hash(Inner(1))
    others: list[object] = [Theirs("a"), 1, ("a", [], (), "s3cret")]
    assert Ours("a") not in others
    assert {Inner(1): "one"}[Inner(1)] == "one"


def test_what_is_hidden_is_not_shown() -> None:
    assert "s3cret" not in repr(Ours("a"))


def test_values_inside_become_objects_as_well() -> None:
    assert as_dict(Ours("a", [1], (Inner(1), Inner(2))))["inner"] == ({"number": 1}, {"number": 2})


def test_it_can_be_copied_and_matched() -> None:
    value = Ours("a", [1], (Inner(1),))
    assert copy.deepcopy(value) == value
    assert pickle.loads(pickle.dumps(value)) == value
    match value:
        case Ours("a", [number]):
            assert number == 1
        case _:
            raise AssertionError


def test_dataclasses_knows_it() -> None:
    value: Any = Ours("a")
    known: bool = dataclasses.is_dataclass(Ours)
    assert known
    assert [each.name for each in dataclasses.fields(value)] == ["name", "values", "inner", "hidden"]
    assert dataclasses.replace(value, name="b") == Ours("b")
    assert dataclasses.asdict(value) == as_dict(value)
