"""An error on its way from a process that cannot raise it to one that can."""

from __future__ import annotations

from nsharness.errors import ASK_DOCTOR, NsharnessError
from nsharness.sandbox.assemble import StepFailedError


def describe(error: BaseException) -> dict[str, str]:
    """An error as the fields of ``NsharnessError``, for the way through a pipe."""
    if isinstance(error, NsharnessError):
        return {"what": error.what, "why": error.why, "hint": error.hint}
    why = f"{error.strerror}" if isinstance(error, OSError) and error.strerror else repr(error)
    if isinstance(error, OSError) and error.filename:
        why = f"{why} ({error.filename})"
    what = (
        "cannot build the sandbox's file system"
        if isinstance(error, StepFailedError)
        else "cannot build a sandbox"
    )
    hint = ASK_DOCTOR if isinstance(error, OSError) else ""
    return {"what": what, "why": why, "hint": hint}
