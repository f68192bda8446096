"""The type that a secret's value travels in, and the names that secrets go by.

A value that is an ordinary string ends up in logs, tracebacks, pickles and error messages by
itself. This type has no way to be printed, formatted, serialised or dumped; there is one method
that reads it, which is easy to search for.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn

from nsharness.errors import NsharnessError

MIN_BYTES = 8
MAX_BYTES = 16384
NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")

# Nothing after the first underscore is ever public, and what remains must be worth guessing at.
_PREFIX = re.compile(r"([A-Za-z0-9-]{1,4}_).{8,}", re.DOTALL)
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


class Secret:
    """One line of text that shows itself to nobody: every rendering of it is ``Secret(***)``.

    Copies are the object itself. Pickling fails, JSON fails, there is no ``__dict__``. Comparison
    takes the same time wherever the values differ.
    """

    # The value lives in a closure: tools that dump the slots of an object see a function.
    __slots__ = ("_read",)
    _read: Callable[[], str]

    def __init__(self, value: str | bytes) -> None:
        """``ValueError`` (which never quotes the value) unless it is one line of UTF-8 text."""
        text, problem = _text(value)
        if problem:
            # A report that shows the locals of each frame must find nothing here.
            del value, text
            raise ValueError(problem)
        object.__setattr__(self, "_read", lambda: text)

    def reveal(self) -> str:
        """The value. Call it where the value leaves this process, and keep the result nowhere."""
        return self._read()

    def prefix(self) -> str:
        """The public part, for logs: up to the first underscore (``wiki_``), at most five characters;
        empty if there is none."""
        match = _PREFIX.match(self._read())
        return match[1] if match else ""

    def digest(self) -> str:
        """SHA-256 of the value, in hexadecimal: lets another process recognise it without knowing it."""
        return hashlib.sha256(self._read().encode()).hexdigest()

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(self._read().encode(), other._read().encode())

    # A hash would be a fingerprint, and sets compare in variable time.
    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return "Secret(***)"

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return "Secret(***)"

    def __copy__(self) -> Secret:
        return self

    def __deepcopy__(self, memo: object) -> Secret:
        return self

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError("a Secret does not change")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError("a Secret does not change")

    def __getstate__(self) -> NoReturn:
        raise TypeError("a Secret cannot be serialised")

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Secret cannot be serialised")


@dataclass(frozen=True, slots=True, order=True)
class SecretRef:
    """The name of a secret and of one key in it: ``wiki.token``. Neither is confidential on the host."""

    name: str
    key: str

    def __post_init__(self) -> None:
        for what, text in (("secret name", self.name), ("key", self.key)):
            if not NAME.fullmatch(text):
                raise ValueError(f"{what} {text!a} is not made of a-z, 0-9, _ and -, or is too long")

    @classmethod
    def parse(cls, text: str) -> SecretRef:
        """Read ``name.key``; ``ValueError`` says what is wrong with it."""
        name, dot, key = text.partition(".")
        if not dot:
            raise ValueError(f"{text!a} is not of the form secret-name.key")
        return cls(name, key)

    @property
    def remedy(self) -> str:
        """What to tell a person who has not stored it yet."""
        return f"nsharness secret set {self.name} --key {self.key}"

    def __str__(self) -> str:
        return f"{self.name}.{self.key}"


class SecretNotFoundError(NsharnessError):
    """There is no such secret, or it has no such key."""

    def __init__(self, ref: SecretRef, *, why: str) -> None:
        super().__init__(f"secret {ref}", why=why, hint=ref.remedy)
        self.ref = ref


def _text(value: str | bytes) -> tuple[str, str]:
    """The value as text, and what is wrong with it. Returned, because a raised UnicodeError would carry
    the bytes, and its traceback this frame."""
    try:
        text = value.decode("utf-8") if isinstance(value, bytes) else value
        text.encode("utf-8")
    except UnicodeError:
        return "", "a secret is UTF-8 text"
    if _CONTROL.search(text):
        return "", "a secret is one line without control characters"
    return text, ""
