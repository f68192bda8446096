"""What of an answer's head is about the answer, and what about the connection that it came over. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from nsharness.policy.headers import Field

# RFC 9110 section 7.6.1.
_HOP_BY_HOP: Final = frozenset({b"connection", b"keep-alive", b"proxy-connection", b"upgrade"})
_END_TO_END: Final = frozenset(
    {b"content-encoding", b"content-length", b"content-range", b"content-type", b"transfer-encoding"}
)


def of_answer(fields: Sequence[Field], status: int) -> list[Field]:
    """What of an answer's fields is about the answer: the rest was about the host's connection. A host cannot
    make its message mean something else by calling what frames or describes it its own."""
    lowered = [name.lower() for name, _ in fields]
    dropped = _HOP_BY_HOP
    if b"connection" in lowered:
        listed = {
            option.strip(b" \t").lower()
            for name, (_, value) in zip(lowered, fields, strict=True)
            if name == b"connection"
            for option in value.split(b",")
        }
        dropped = dropped | (listed - _END_TO_END)
    if status == 304:
        # It may say how the body that it does not have would be framed (RFC 9112 section 6.1).
        dropped = dropped | {b"transfer-encoding"}
    return [field for name, field in zip(lowered, fields, strict=True) if name not in dropped]
