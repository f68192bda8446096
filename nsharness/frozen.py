"""Frozen values: what ``dataclass(frozen=True, slots=True)`` makes, in a tenth of the time.

A dataclass compiles six functions for each class, and its module imports what takes functions apart. A
command line that makes a sandbox has fifty such classes, and spent a third of its start on that. Here all
classes share their functions. What only processes that live long import has no use for this.

``dataclasses`` knows these classes, too: ``fields``, ``asdict`` and ``replace`` take their instances.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
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
    made: type[T] = type(cls.__name__, cls.__bases__, namespace)
    return made


def replace[T](value: T, **changes: Any) -> T:
    """The same value with some fields changed."""
    names = type(value).__match_args__  # type: ignore[attr-defined]
    return type(value)(**{name: getattr(value, name) for name in names} | changes)


def as_dict(value: object) -> dict[str, Any]:
    """The fields by name, and of frozen values in them, also in tuples, lists and mappings, the same."""
    return {name: _plain(getattr(value, name)) for name in type(value).__match_args__}  # type: ignore[attr-defined]


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
    names = kind.__match_args__
    if len(values) > len(names):
        raise TypeError(f"{kind.__name__} takes {len(names)} values, not {len(values)}")
    for place, (name, field) in enumerate(kind.__frozen_fields__.items()):
        if place < len(values):
            value = values[place]
        elif name in named:
            value = named.pop(name)
        else:
            value = field.factory() if field.factory is not None else field.default
            if value is _MISSING:
                raise TypeError(f"{kind.__name__} needs a value for {name}")
        object.__setattr__(self, name, value)
    if named:
        raise TypeError(f"{kind.__name__} has no field {next(iter(named))}, or was given it twice")
    if hasattr(kind, "__post_init__"):
        self.__post_init__()


def _refuse_set(self: object, name: str, _: object) -> None:
    raise AttributeError(f"{type(self).__name__} is frozen: {name} cannot be set")


def _refuse_delete(self: object, name: str) -> None:
    raise AttributeError(f"{type(self).__name__} is frozen: {name} cannot be deleted")


def _values(self: Any) -> tuple[object, ...]:
    return tuple(getattr(self, name) for name in type(self).__match_args__)


def _restore(self: Any, values: tuple[object, ...]) -> None:
    for name, value in zip(type(self).__match_args__, values, strict=True):
        object.__setattr__(self, name, value)


def _equals(self: object, other: object) -> Any:
    if type(self) is not type(other):
        return NotImplemented
    return _values(self) == _values(other)


def _hash(self: object) -> int:
    return hash(_values(self))


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
