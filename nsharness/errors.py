"""The one error a user sees: what failed, on what, why, and what to do about it."""

from __future__ import annotations

from typing import Final

ASK_DOCTOR: Final = "nsharness doctor says what this machine lacks"
"""The hint of a failure for which the kernel is the reason, until it is known what helps here."""


class NsharnessError(Exception):
    """A failure that is reported as one line, without a traceback.

    ``what`` says which operation failed and on what object, ``why`` gives the cause, ``hint`` the
    next action. None of the three may ever contain the value of a secret. ``exit_code`` is what
    the command line exits with: 125 means that nsharness itself failed, as ``env(1)`` and
    ``timeout(1)`` use it; 124, 126 and 127 keep the meanings that those programs gave them.
    """

    def __init__(self, what: str, *, why: str = "", hint: str = "", exit_code: int = 125) -> None:
        self.what = what
        self.why = why
        self.hint = hint
        self.exit_code = exit_code
        super().__init__(str(self))

    def __str__(self) -> str:
        line = f"{self.what}: {self.why}" if self.why else self.what
        line = f"{line} ({self.hint})" if self.hint else line
        # One line for one failure, whatever a system call or a file name contributed to it.
        return "".join(c if c.isprintable() else repr(c)[1:-1] for c in line)
