"""Frozen values: what ``dataclass(frozen=True, slots=True)`` makes, in a tenth of the time.

A dataclass compiles six functions for each class, and its module imports what takes functions apart. A
command line that makes a sandbox has fifty such classes, and spent a third of its start on that. Here all
classes share their functions. What only processes that live long import has no use for this.

``dataclasses`` knows these classes, too: ``fields``, ``asdict`` and ``replace`` take their instances.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from operator import attrgetter
from typing import Any, Final, dataclass_transform

_MISSING: Final = object()


class _Field:
    """What ``field`` gives: how the value comes about, and whether it is shown."""

    __slots__ = ("default", "factory", "shown")

    def __init__(self, default: object, factory: Callable[[], object] | None, *, shown: bool) -> None:
        self.default = default
        self.factory = factory
        self.shown = shown


def field(
    *, default: Any = _MISSING, default_factory: Callable[[], Any] | None = None, shown: bool = True
) -> Any:
    """As of ``dataclasses``: a default, or what makes one anew for each value, and whether ``repr`` shows
    it."""
    return _Field(default, default_factory, shown=shown)


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def frozen[T](cls: type[T]) -> type[T]:
    """A class whose annotations are its fields, of which instances never change. A field without a default
    stands before all that have one; there are no fields but those of the class itself."""
    namespace = dict(cls.__dict__)
    annotations = dict(cls.__annotations__)
    names = tuple(annotations)
    fields = {name: _as_field(namespace.pop(name, _MISSING)) for name in names}
    for name in ("__dict__", "__weakref__"):
        namespace.pop(name, None)
    namespace |= {
        "__annotations__": annotations,
        "__slots__": names,
        "__match_args__": names,
        "__frozen_fields__": fields,
        "__dataclass_fields__": _DataclassFields(),
        "__init__": _init,
        "__setattr__": _refuse_set,
        "__delattr__": _refuse_delete,
        "__eq__": _equals,
        "__hash__": _hash,
        "__getstate__": _values,
        "__setstate__": _restore,
    }
    if "__repr__" not in namespace:
        namespace["__repr__"] = _repr
    made: Any = type(cls.__name__, cls.__bases__, namespace)
    # What the functions below have of each class: how its slots are filled, and how they are read.
    made.__frozen_setters__ = tuple((name, getattr(made, name).__set__) for name in names)
    made.__frozen_values__ = attrgetter(*names) if names else lambda _: ()
    frozen_class: type[T] = made
    return frozen_class


def replace[T](value: T, **changes: Any) -> T:
    """The same value with some fields changed."""
    return type(value)(**fields_of(value) | changes)


def fields_of(value: object) -> dict[str, Any]:
    """The fields by name, as they are."""
    return {name: getattr(value, name) for name, _ in type(value).__frozen_setters__}  # type: ignore[attr-defined]


def as_dict(value: object) -> dict[str, Any]:
    """The fields by name, and of frozen values in them, also in tuples, lists and dictionaries, the same."""
    return {name: _plain(inner) for name, inner in fields_of(value).items()}


def _plain(value: object) -> object:
    if hasattr(type(value), "__frozen_fields__"):
        return as_dict(value)
    if isinstance(value, tuple | list):
        return type(value)([_plain(each) for each in value])
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    return value


def _as_field(default: object) -> _Field:
    return default if isinstance(default, _Field) else _Field(default, None, shown=True)


def _init(self: Any, *values: object, **named: object) -> None:
    kind = type(self)
    setters = kind.__frozen_setters__
    if values:
        for (name, _), value in zip(setters, values, strict=False):
            if name in named:
                raise TypeError(f"{kind.__name__} is given {name} twice")
            named[name] = value
        if len(values) > len(setters):
            raise TypeError(f"{kind.__name__} has {len(setters)} fields, and is given {len(values)}")
    left = len(named)
    for name, set_slot in setters:
        if name in named:
            set_slot(self, named[name])
            left -= 1
        else:
            set_slot(self, _default(kind, name))
    if left:
        known = dict(setters)
        raise TypeError(f"{kind.__name__} has no field {next(name for name in named if name not in known)}")
    if hasattr(kind, "__post_init__"):
        self.__post_init__()


def _default(kind: Any, name: str) -> object:
    field = kind.__frozen_fields__[name]
    value = field.factory() if field.factory is not None else field.default
    if value is _MISSING:
        raise TypeError(f"{kind.__name__} needs a value for {name}")
    return value


def _refuse_set(self: object, name: str, _: object) -> None:
    raise AttributeError(f"{type(self).__name__} is frozen: {name} cannot be set")


def _refuse_delete(self: object, name: str) -> None:
    raise AttributeError(f"{type(self).__name__} is frozen: {name} cannot be deleted")


def _values(self: Any) -> tuple[object, ...]:
    return tuple(fields_of(self).values())


def _restore(self: Any, values: tuple[object, ...]) -> None:
    for (_, set_slot), value in zip(type(self).__frozen_setters__, values, strict=True):
        set_slot(self, value)


def _equals(self: object, other: object) -> Any:
    if type(self) is not type(other):
        return NotImplemented
    values = type(self).__frozen_values__  # type: ignore[attr-defined]
    return values(self) == values(other)


def _hash(self: object) -> int:
    return hash(type(self).__frozen_values__(self))  # type: ignore[attr-defined]


def _repr(self: Any) -> str:
    kind = type(self)
    fields: Mapping[str, _Field] = kind.__frozen_fields__
    shown = ", ".join(f"{name}={getattr(self, name)!r}" for name, each in fields.items() if each.shown)
    return f"{kind.__qualname__}({shown})"


class _DataclassFields:
    """Of a class, the fields as ``dataclasses`` has them: made when somebody asks."""

    def __get__(self, _: object, kind: Any) -> dict[str, Any]:
        import dataclasses

        specified = []
        for name, each in kind.__frozen_fields__.items():
            options: dict[str, Any] = {"repr": each.shown}
            if each.factory is not None:
                options["default_factory"] = each.factory
            elif each.default is not _MISSING:
                options["default"] = each.default
            specified.append((name, kind.__annotations__[name], dataclasses.field(**options)))
        made: Any = dataclasses.make_dataclass(kind.__name__, specified)
        return dict(made.__dataclass_fields__)
