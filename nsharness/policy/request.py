"""The request as decisions see it: immutable, in canonical form, and without any credential."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final, Literal, cast

from nsharness.policy.guards import override_header
from nsharness.policy.hosts import canonical_host
from nsharness.policy.paths import join_target, normalise_path, split_target

Scheme = Literal["http", "https"]

DEFAULT_PORTS: dict[Scheme, int] = {"http": 80, "https": 443}

# RFC 9110 section 5.6.2: what a method and a header name are made of.
TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")

# Headers by which clients authenticate themselves. A decision never needs their values.
CREDENTIAL_HEADERS = frozenset(
    {
        "authorization",
        "proxy-authorization",
        "cookie",
        "api-key",
        "x-api-key",
        "x-goog-api-key",
        "private-token",
        "x-auth-token",
        "x-amz-security-token",
    }
)


class RequestError(ValueError):
    """A request that is not in canonical form, or that no server could read in one way only."""


class Headers(tuple[tuple[str, str], ...]):  # noqa: SLOT001 - for its cached properties
    """Header fields as text, without credentials: with one among them it raises ``RequestError``.

    What decisions read off them is worked out once, also where several requests come with the same ones.
    """

    def __new__(cls, fields: Iterable[tuple[str, str]] = ()) -> Headers:
        made = super().__new__(cls, fields)
        if any(name.lower() in CREDENTIAL_HEADERS for name, _ in made):
            raise RequestError("a credential does not belong into the view of a request")
        return made

    @cached_property
    def override(self) -> str | None:
        """See ``guards.override_header``."""
        return override_header(self)

    @cached_property
    def length(self) -> int:
        """The longest body that they announce, in bytes; 0 where they announce none."""
        lengths = [value for name, value in self if name.lower() == "content-length"]
        return max((int(text) for text in lengths if text.isascii() and text.isdecimal()), default=0)


NO_HEADERS: Final = Headers()


@dataclass(frozen=True, slots=True)
class RequestView:
    """What a rule is matched against, and all that pluggable code may see of a request.

    ``host`` is canonical, ``path`` normalised, ``query`` without its question mark. Making one from
    anything else raises ``RequestError``, so that no caller can decide on a form that is not the one
    that is sent. Use ``view`` for what came off the wire.
    """

    method: str
    scheme: Scheme
    host: str
    port: int
    path: str
    query: str = ""
    headers: tuple[tuple[str, str], ...] = NO_HEADERS
    decided: tuple[object, Any] | None = field(default=None, init=False, repr=False, compare=False)
    """For ``decide`` alone: the policy that was last asked, and what it said."""

    def __post_init__(self) -> None:
        if not TOKEN.fullmatch(self.method):
            raise RequestError("the method is not a token")
        if self.scheme not in DEFAULT_PORTS:
            raise RequestError("the scheme is neither http nor https")
        if not 0 < self.port < 65536:
            raise RequestError("the port is out of range")
        try:
            canonical = canonical_host(self.host) == self.host and normalise_path(self.path) == self.path
        except ValueError as error:
            raise RequestError(str(error)) from None
        if not canonical:
            raise RequestError("the host or the path is not in canonical form")
        if type(self.headers) is not Headers:
            object.__setattr__(self, "headers", Headers(self.headers))

    @property
    def header_facts(self) -> Headers:
        """The header fields, as what knows more about itself."""
        return cast(Headers, self.headers)

    @property
    def target(self) -> str:
        """The exact request target to send upstream: what was checked is what is sent."""
        return join_target(self.path, self.query)


def view(
    method: str,
    scheme: Scheme,
    host: str,
    port: int,
    target: str,
    headers: Iterable[tuple[str, str]] = (),
) -> RequestView:
    """The view of a request from the wire; credentials among the headers are left out.

    ``host`` and ``port`` are those of the ``Authority``, ``target`` is in origin form. Raises
    ``PathError``, ``HostError`` or ``RequestError``, all of them ``ValueError``.
    """
    path, query = split_target(target)
    kept = headers if type(headers) is Headers else without_credentials(headers)
    return RequestView(method, scheme, canonical_host(host), port, path, query, kept)


def without_credentials(fields: Iterable[tuple[str, str]]) -> Headers:
    """What of them may be in the view of a request."""
    return Headers((name, value) for name, value in fields if name.lower() not in CREDENTIAL_HEADERS)
