"""What in a request could get round a decision on it: other methods, other paths, other credentials.

For hosts with a credential of ours only. Names are compared as the most lenient server would: without
case, and with underscores for hyphens, because CGI and its descendants do not tell them apart.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from urllib.parse import unquote_to_bytes

from nsharness.policy.remembering import remembered

# Servers and frameworks that believe these handle another method or path than was checked.
_OVERRIDES = frozenset(
    {
        "x-http-method",
        "x-http-method-override",
        "x-method-override",
        "x-original-method",
        "x-original-url",
        "x-rewrite-url",
    }
)

# What presigned URLs and keys in queries are called: of any account, the attacker's own included.
_QUERY_NAMES = frozenset({"sig", "signature", "access-token", "api-key", "key"})
_QUERY_PREFIXES = ("x-amz-", "x-goog-")

_SEPARATORS = re.compile("[&;]")
# Without any of these there is none of the names above in a query, however it is read.
_SUSPICIOUS = re.compile("[%+]|sig|token|key|amz|goog", re.IGNORECASE)


def override_header(headers: Iterable[tuple[str, str]]) -> str | None:
    """The first header, in canonical spelling, that asks for another method or path."""
    return next((fold(name) for name, _ in headers if fold(name) in _OVERRIDES), None)


def credential_in_query(query: str) -> str | None:
    """The first parameter of a query, in canonical spelling, by which a client authenticates itself."""
    if not _SUSPICIOUS.search(query):
        return None
    return next((name for name in _parameters(query) if _is_credential(name)), None)


# The same names come with every request.
@remembered
def fold(name: str) -> str:
    """A header or parameter name as the most lenient server compares it."""
    return name.strip().lower().replace("_", "-")


def _is_credential(name: str) -> bool:
    return name in _QUERY_NAMES or name.startswith(_QUERY_PREFIXES)


def _parameters(query: str) -> Iterable[str]:
    """The names in a query, decoded once; ``name[]`` is another way to write ``name``. Some servers separate
    with semicolons, to others they are part of a value: both readings are given."""
    for pair in (*query.split("&"), *_SEPARATORS.split(query)):
        raw = pair.partition("=")[0].replace("+", " ")
        name = unquote_to_bytes(raw.encode("utf-8", "surrogateescape")).decode("utf-8", "replace")
        yield fold(name.partition("[")[0])
