"""``nsharness doctor``: what this machine allows, what follows from it, and what to do."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Final, Literal

from nsharness import __version__
from nsharness.linux.examine import Check, examine, exit_code

_SYMBOLS: Final = {
    "green": ("✔", "ok", "32"),
    "yellow": ("▲", "!", "33"),
    "red": ("✖", "X", "31"),
    "skipped": ("–", "-", "2"),
}
_VERDICTS: Final = (
    "Everything is there.",
    "Sandboxes run here, with the restrictions above.",
    "Sandboxes cannot run here.",
)


def doctor(options: argparse.Namespace) -> int:
    """0 when all is well, 1 when an optional layer is missing, 2 when no sandbox can run."""
    if options.apparmor_profile:
        from nsharness.linux import apparmor

        print(apparmor.profile(apparmor.attachment()), end="")
        return 0
    checks = (*examine(*_state()), *_limits())
    code = exit_code(checks)
    if options.json:
        report = {
            "version": __version__,
            "kernel": platform.release(),
            "uid": os.geteuid(),
            "status": ("ok", "degraded", "unusable")[code],
            "checks": [asdict(check) for check in checks],
        }
        print(json.dumps(report))
    else:
        print("\n".join(lines(checks, colour=_colour(), plain=_plain())))
    return code


def lines(checks: Sequence[Check], *, colour: bool, plain: bool) -> list[str]:
    """One line for each check and a verdict; ``plain`` without characters beyond ASCII."""
    width = max(len(check.name) for check in checks)
    shown = []
    for check in checks:
        symbol, word, number = _SYMBOLS[check.level]
        mark = f"{word:<2}" if plain else symbol
        if colour:
            mark = f"\x1b[{number}m{mark}\x1b[0m"
        text = "; ".join(part for part in (check.finding, check.consequence) if part)
        remedy = f" {'->' if plain else '→'} {check.remedy}" if check.remedy else ""
        shown.append(f"{mark} {check.name:<{width}}  {text}{remedy}")
    shown.append(_VERDICTS[exit_code(checks)])
    return [_ascii(line) for line in shown] if plain else shown


def _ascii(line: str) -> str:
    plain = line.translate({ord("…"): "...", ord("—"): "-"})
    return plain.encode("ascii", "backslashreplace").decode()


def _state() -> tuple[Path | None, Callable[[], AbstractContextManager[None]]]:
    try:
        from nsharness.linux.identity import current
        from nsharness.supervisor.state import state_home
    except ImportError:
        return None, nullcontext  # python-prctl does not load, which has a line of its own.
    identity = current()
    return state_home(identity), identity.files


def _limits() -> tuple[Check, ...]:
    """What would enforce each key of a profile's ``[limits]`` here."""
    try:
        from nsharness.plan.limits import mechanisms
        from nsharness.supervisor.limits import facts
    except ImportError:
        return ()
    found = mechanisms(facts())
    strong = [
        f"{limit.name} {limit.mechanism}" for limit in found if limit.mechanism != "none" and not limit.weaker
    ]
    weak = [f"{limit.name}: {limit.weaker or 'nothing'}" for limit in found]
    lacking = [
        text for limit, text in zip(found, weak, strict=True) if limit.mechanism == "none" or limit.weaker
    ]
    lost = f"cannot be enforced as they are meant: {', '.join(lacking)}" if lacking else ""
    level: Literal["green", "yellow"] = "yellow" if lacking else "green"
    remedy = "see control groups above, or set best_effort = true" if lacking else ""
    return (Check("limits", level, ", ".join(strong), lost, remedy, required=False),)


def _colour() -> bool:
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def _plain() -> bool:
    return "utf" not in (sys.stdout.encoding or "").lower()
