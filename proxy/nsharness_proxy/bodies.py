"""The bodies of requests and answers on their way through: counted, measured, searched, never kept.

Each is called by the engine with every piece as it comes, and with an empty one at the end; what it gives
back goes on. To end an exchange in the middle it raises ``BodyRefusedError``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Final, Protocol

# The decoder imports them when it first needs them, which is too late here.
import brotli  # type: ignore[import-untyped]  # noqa: F401
import zstandard  # noqa: F401

from nsharness.credentials.decoding import Decoder, DecodingError
from nsharness.credentials.scrub import Scrubber
from nsharness_proxy.refusal import UNREADABLE, Refused, upstream_failure

# What one piece of an encoded body may become when it is decoded: gzip does no more, and all of it waits in
# memory for the client.
_PIECE: Final = 1 << 16
_MAX_EXPANSION: Final = 64 << 20


class BodyRefusedError(Exception):
    """A body that must not go on; ``refused`` is for the client, should it still be waiting for an answer."""

    def __init__(self, refused: Refused) -> None:
        super().__init__(refused.reason)
        self.refused = refused


class Stream(Protocol):
    """What looks for something in a sequence of bytes: see ``credentials.scrub``."""

    found: bool

    def feed(self, data: bytes) -> bytes: ...

    def feed_last(self, data: bytes) -> bytes: ...

    def finish(self) -> bytes: ...


class Outbound:
    """A request's body. It has no secret and no placeholder in it, and is no longer than it may be.

    ``check`` is given the bytes so far and says whether that is too much. Of what could be the beginning of
    a secret nothing is sent before it is clear that it is none: a secret in pieces gets nowhere either.
    """

    def __init__(
        self,
        secrets: Scrubber | None = None,
        placeholders: Scrubber | None = None,
        check: Callable[[int], Refused | None] | None = None,
        refuse: Callable[[Refused], None] = lambda _: None,
    ) -> None:
        self._for_secrets, self._for_placeholders = secrets, placeholders
        # Made with the first piece: most requests have none.
        self._secrets: Stream | None = None
        self._placeholders: Stream | None = None
        self._check = check
        self.refuse = refuse
        self.count = 0

    def __call__(self, chunk: bytes) -> list[bytes]:
        if self._secrets is None and self._for_secrets is not None:
            self._secrets = self._for_secrets.stream()
        if self._placeholders is None and self._for_placeholders is not None:
            self._placeholders = self._for_placeholders.stream()
        self.count += len(chunk)
        if self._check is not None and (refused := self._check(self.count)) is not None:
            self._end(refused)
        if self._placeholders is not None:
            _step(self._placeholders, chunk)
            if self._placeholders.found:
                self._end(STRAY_PLACEHOLDER)
        if self._secrets is not None:
            chunk = _step(self._secrets, chunk)
            if self._secrets.found:
                self._end(SECRET_IN_REQUEST)
        return [chunk] if chunk else []

    def _end(self, refused: Refused) -> None:
        self.refuse(refused)
        raise BodyRefusedError(refused)


class Inbound:
    """An answer's body, decoded if it has to be, without the secrets that came back in it."""

    def __init__(self, secrets: Scrubber | None = None, decoder: Decoder | None = None) -> None:
        self._scrubber = secrets
        # Made with the first piece that is not the last.
        self._secrets: Stream | None = None
        self._decoder = decoder
        self.count = 0

    def __call__(self, chunk: bytes) -> Iterator[bytes]:
        if self._secrets is None and self._scrubber is not None:
            self._secrets = self._scrubber.stream()
        self.count += len(chunk)
        try:
            for piece in self._decoded(chunk):
                if clean := self._secrets.feed(piece) if self._secrets else piece:
                    yield clean
        except DecodingError:
            # The client sees an answer that is cut off, as it would without us.
            raise BodyRefusedError(UNDECODABLE) from None
        if not chunk and self._secrets and (rest := self._secrets.finish()):
            yield rest

    def last(self, chunk: bytes) -> list[bytes]:
        """The last piece and the end in one: cheaper, since nothing has to be held back of it."""
        if self._decoder is not None:
            return [piece for part in ((chunk, b"") if chunk else (b"",)) for piece in self(part)]
        self.count += len(chunk)
        if self._secrets is not None:
            chunk = self._secrets.feed_last(chunk)
        elif self._scrubber is not None:
            chunk = self._scrubber.text(chunk)
        return [chunk] if chunk else []

    def _decoded(self, chunk: bytes) -> Iterable[bytes]:
        if self._decoder is None:
            yield chunk
            return
        if not chunk:
            self._decoder.finish()
            return
        for start in range(0, len(chunk), _PIECE):
            expanded = 0
            for piece in self._decoder.feed(chunk[start : start + _PIECE]):
                expanded += len(piece)
                if expanded > _MAX_EXPANSION:
                    raise DecodingError("too much output for so little input")
                yield piece


def _step(stream: Stream, chunk: bytes) -> bytes:
    return stream.feed(chunk) if chunk else stream.finish()


SECRET_IN_REQUEST: Final = Refused(
    403, "secret-in-request", hint="a request must not carry a secret: the proxy adds it where a rule says so"
)
STRAY_PLACEHOLDER: Final = Refused(
    403,
    "placeholder-in-request",
    hint="a placeholder becomes its secret only in requests that a rule with that secret allows, in headers",
)
UNDECODABLE: Final = upstream_failure(UNREADABLE)
