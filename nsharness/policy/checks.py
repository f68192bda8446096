"""What each key of a profile may hold. Functions from what was written to its canonical form.

They raise ``ValueError`` with a text for the user, which never quotes a header's value.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from nsharness.credentials.build import check_header_name, check_header_template, check_reference
from nsharness.credentials.secret import SecretRef
from nsharness.policy import placeholders
from nsharness.policy.hosts import HostPattern, join_authority, split_authority
from nsharness.policy.model import Upstream, check_upstream_address
from nsharness.policy.paths import PathGlob
from nsharness.policy.request import TOKEN
from nsharness.policy.units import Rate, parse_duration, parse_size, size_text

_PROFILE_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,47}")
_RULE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_LONGEST = 366 * 86_400.0
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def filled(value: object) -> object:
    """A condition that is present says something: neither null nor empty."""
    if value is None or (isinstance(value, list | tuple | set | frozenset | Mapping) and not value):
        raise ValueError("present but empty: leave it out, or say what is meant")
    return value


def not_null(value: object) -> object:
    """For keys where empty is a value of its own."""
    if value is None:
        raise ValueError("null is not a value: leave it out")
    return value


def profile_name(text: str) -> str:
    if not _PROFILE_NAME.fullmatch(text):
        raise ValueError("use a-z, 0-9, _ and -, at most 48 characters")
    return text


def rule_name(text: str) -> str:
    if not _RULE_NAME.fullmatch(text):
        raise ValueError("use letters, digits, _, - and ., at most 64 characters")
    return text


def host(text: str) -> str:
    """Syntax only; whether the pattern is too broad depends on its rule."""
    return str(HostPattern.parse(text, allow_any=True))


def method(text: str) -> str:
    if not TOKEN.fullmatch(text) or text != text.upper():
        raise ValueError(f"{text!a} is not a method: they are upper case, such as GET")
    if text in ("CONNECT", "TRACE"):
        raise ValueError(f"method {text} cannot be allowed: the proxy makes tunnels itself, and never traces")
    return text


def path(text: str) -> str:
    return str(PathGlob.parse(text))


def at_least_bytes(lowest: int) -> Callable[[str | int], str | int]:
    """A check of a size that must not be below ``lowest`` bytes."""

    def check(value: str | int) -> str | int:
        if parse_size(str(value)) < lowest:
            raise ValueError(f"at least {size_text(lowest)}: with less no sandbox starts")
        return value

    return check


def duration(value: str | float) -> str | float:
    if not 0 < parse_duration(value if isinstance(value, str) else f"{value:.3f}") <= _LONGEST:
        raise ValueError("a time is longer than nothing and no more than a year")
    return value


def port(number: int) -> int:
    if not 0 < number < 65536:
        raise ValueError(f"{number} is not a port")
    return number


def headers(values: dict[str, str]) -> dict[str, str]:
    """Names that may be injected, each once whatever its case, and values that can become field values."""
    seen: set[str] = set()
    for name, text in values.items():
        check_header_name(name)
        if name.lower() in seen:
            raise ValueError(f"header {name} is there twice")
        seen.add(name.lower())
        try:
            check_header_template(text)
        except ValueError as error:
            raise ValueError(f"header {name}: {error}") from None
    return values


def environment(values: dict[str, str]) -> dict[str, str]:
    for name, value in values.items():
        if not _VARIABLE.fullmatch(name):
            raise ValueError(f"{name!a} is not a name for an environment variable")
        if "\0" in value:
            raise ValueError(f"variable {name} has a NUL character")
        try:
            placeholders.references(value)
        except ValueError as error:
            raise ValueError(f"variable {name}: {error}") from None
    return values


def secret_ref(text: str) -> str:
    return str(SecretRef.parse(text))


def reference(text: str) -> str:
    return check_reference(text)


def rate(text: str) -> str:
    return str(Rate.parse(text))


def size(value: str | int) -> str:
    return size_text(parse_size(str(value)))


def positive(number: int) -> int:
    if number < 1:
        raise ValueError(f"{number} is less than one")
    return number


def upstreams(values: dict[str, str]) -> dict[str, str]:
    """``host[:port]`` to ``address:port``, both canonical, the port 80 where there was none."""
    canonical: dict[str, str] = {}
    for name, target in values.items():
        name_host, name_port = split_authority(name)
        try:
            address = join_authority(*upstream_address(target))
        except ValueError as error:
            raise ValueError(f"upstream {name} needs an address:port to lead to: {error}") from None
        key = join_authority(name_host, 80 if name_port is None else name_port)
        if key in canonical:
            raise ValueError(f"upstream {key} is there twice")
        canonical[key] = address
    return canonical


def upstream_address(target: str) -> Upstream:
    """``address:port`` taken apart."""
    address, number = split_authority(target)
    if number is None:
        raise ValueError(f"{target!a} has no port")
    check_upstream_address(address, number)
    return address, number


def unique(values: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(values)) != len(values):
        raise ValueError("a name is there twice")
    return values


def only_in_files(value: object) -> object:
    """``ValueError`` for what only whoever reads files can follow."""
    if value:
        raise ValueError("only a file can extend others: load it, or take their rules over")
    return value
