"""Where the background supervisor listens. For the client too: standard library, and little of it."""

from __future__ import annotations

import os
import stat

# Not at run time: importing them takes longer than all that is done here.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final


SOCKET: Final = "supervisor"
LOCK: Final = "lock"
SWITCH: Final = "NSHARNESS_BACKGROUND"
"""Environment variable: ``no`` keeps command lines from looking for it."""


class PlaceError(OSError):
    """The folder is not what it has to be."""


def folder() -> str | None:
    """``$XDG_RUNTIME_DIR/nsharness``, or that below ``/run/user/UID`` (root: ``/run``) where the variable is
    not set; None where there is no such directory."""
    base = os.environ.get("XDG_RUNTIME_DIR", "")
    # XDG Base Directory Specification: a relative path is to be ignored.
    candidates = [base] if base.startswith("/") else [f"/run/user/{os.getuid()}"]
    if not base and os.getuid() == 0:
        candidates.append("/run")
    return next((f"{path}/nsharness" for path in candidates if os.path.isdir(path)), None)  # noqa: PTH112


def check(path: str) -> None:
    """``PlaceError`` unless the folder is a directory that only we can use; ``FileNotFoundError`` if there is
    none."""
    found = os.lstat(path)
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise PlaceError(1, "it is not a folder of ours that nobody else may use", path)
