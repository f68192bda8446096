"""The AppArmor profile that lets nsharness, and little else, make user namespaces (apparmor.d(5))."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

_GLOB_CHARACTERS = frozenset('\\?*[]{}^"@')


@dataclass(frozen=True, slots=True)
class Attachment:
    """What the kernel will see when nsharness is started. ``shared``: other programs are it too."""

    path: Path
    shared: bool


def attachment(script: str | None = None, interpreter: str | None = None) -> Attachment:
    """What a profile has to name, links resolved, as the kernel does it.

    AppArmor looks at the file that execve(2) is given, before a ``#!`` line counts (``bprm_creds_for_exec``,
    once per call since Linux 5.8). So a profile for the console script holds for that alone; what it then
    starts, the zygote among it, keeps the profile, because it is one that confines nothing. A program that
    was started as ``python program.py`` is its interpreter to the kernel, and so is every other one: an
    environment's ``python`` is a link to an interpreter that others share.
    """
    script = sys.argv[0] if script is None else script
    if os.access(script, os.X_OK) and os.path.isfile(script) and _begins_with_interpreter(script):  # noqa: PTH113 - a str is what there is
        return Attachment(Path(os.path.realpath(script)), shared=False)
    return Attachment(Path(os.path.realpath(interpreter or sys.executable)), shared=True)


def profile(attached: Attachment) -> str:
    """The text of the profile, with how to load it."""
    path = "".join(f"\\{c}" if c in _GLOB_CHARACTERS else c for c in str(attached.path))
    caution = (
        "#\n# CAUTION: this is a Python interpreter: whatever it runs may make user namespaces then.\n"
        "# For nsharness alone, print the profile with an installed nsharness (uv tool install, pipx).\n"
        if attached.shared
        else ""
    )
    return f"""\
# Lets nsharness make user namespaces where kernel.apparmor_restrict_unprivileged_userns is 1 (Ubuntu 24.04).
# It confines nothing. Load it, now and at every boot:
#
#     nsharness doctor --apparmor-profile | sudo tee /etc/apparmor.d/nsharness >/dev/null
#     sudo apparmor_parser -r /etc/apparmor.d/nsharness
#
# The path is the file itself, no link to it: print the profile again when nsharness has moved. No second
# profile may name the same path. Whoever can write to that file can make user namespaces.
# To undo: sudo apparmor_parser -R /etc/apparmor.d/nsharness && sudo rm /etc/apparmor.d/nsharness
{caution}
abi <abi/4.0>,
include <tunables/global>

profile nsharness "{path}" flags=(unconfined) {{
  userns,

  include if exists <local/nsharness>
}}
"""


def _begins_with_interpreter(path: str) -> bool:
    try:
        with Path(path).open("rb") as stream:
            return stream.read(2) == b"#!"
    except OSError:
        return False
