"""What client and spare say to each other, as bytes. Pure.

::

    client                           daemon, spare
    connects                         looks at the client's process
                                     ready BUILD         or: no WHY
    run, with descriptors            (the kernel adds who sent it)
                                     taken PID           or: no WHY
    signal N …
                                     exit N

Until ``taken`` has been sent nothing of the request has been done, so that the client can still do all of it
itself. The request is in memory that is passed as a descriptor, since an environment may be larger than
a message.
"""

from __future__ import annotations

import sys

# Not at run time: importing them takes longer than all that is done here.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Final


READY: Final = b"ready "
RUN: Final = b"run"
TAKEN: Final = b"taken "
NO: Final = b"no "
SIGNAL: Final = b"signal "
EXIT: Final = b"exit "
MAX_WORD: Final = 4096
"""Bytes of one message at most."""

STREAMS: Final = 3
DESCRIPTORS: Final = 2 + STREAMS
"""The working directory, the request, and the standard streams."""

_END: Final = b"\0"


def build() -> bytes:
    """What both sides must have in common: this code, and the interpreter that runs it."""
    names = sys.getfilesystemencoding()
    return f"{sys.hexversion:x} {names} {sys.executable} {__file__}".encode("utf-8", "surrogateescape")


class Request:
    """A command line, and what belongs to the process that was started with it.

    ``ignored`` are the numbers of the signals that it ignores, ``streams`` the encoding and error handling of
    each of its standard streams. Nothing has a NUL in it (execve(2)).
    """

    __slots__ = ("environment", "ignored", "streams", "umask", "words")

    def __init__(
        self,
        words: Sequence[bytes],
        environment: Mapping[bytes, bytes],
        umask: int,
        ignored: Sequence[int],
        streams: Sequence[tuple[str, str]],
    ) -> None:
        self.words = tuple(words)
        self.environment = dict(environment)
        self.umask = umask
        self.ignored = tuple(ignored)
        self.streams = tuple(streams)

    def to_bytes(self) -> bytes:
        """For ``from_bytes``."""
        parts = [b"%d" % len(self.words), *self.words, b"%d" % len(self.environment)]
        parts += [name + b"=" + value for name, value in self.environment.items()]
        parts += [b"%d" % self.umask, b"%d" % len(self.ignored), *(b"%d" % each for each in self.ignored)]
        parts += [text.encode("ascii") for pair in self.streams for text in pair]
        return _END.join((*parts, b""))

    @classmethod
    def from_bytes(cls, data: bytes) -> Request:
        """``ValueError`` for anything but what ``to_bytes`` gives."""
        parts = iter(data.split(_END))

        def take() -> bytes:
            part = next(parts, None)
            if part is None:
                raise ValueError("the request is cut off")
            return part

        words = [take() for _ in range(int(take()))]
        environment = {}
        for _ in range(int(take())):
            # A name may begin with the sign; for the shell's own hidden variables that is so.
            entry = take()
            at = entry.index(b"=", 1)
            environment[entry[:at]] = entry[at + 1 :]
        umask = int(take())
        ignored = [int(take()) for _ in range(int(take()))]
        streams = [(take().decode("ascii"), take().decode("ascii")) for _ in range(STREAMS)]
        if list(parts) != [b""] or not 0 <= umask <= 0o777:
            raise ValueError("the request has more to it, or less")
        return cls(words, environment, umask, ignored, streams)
