"""Rates, sizes and times as people write them: ``10/s``; ``512``, ``10MB``, ``1MiB``; ``90s``, ``10m``."""

from __future__ import annotations

import re
from dataclasses import dataclass

_PERIODS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_RATE = re.compile(r"([1-9][0-9]{0,5})/([smhd])")
_DURATION = re.compile(r"([0-9]{1,6}(?:\.[0-9]{1,3})?) ?([smhd])?")
_SIZE = re.compile(r"([0-9]{1,15}) ?([kKMG]i?B|B)?")
_FACTORS = {"B": 1, "kB": 10**3, "KB": 10**3, "MB": 10**6, "GB": 10**9}
_FACTORS |= {"KiB": 1 << 10, "kiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}


class UnitError(ValueError):
    """A rate or a size that is none. The text is for the user."""


@dataclass(frozen=True, slots=True)
class Rate:
    """``count`` requests in any period of ``seconds``; that many may come at once after a pause."""

    count: int
    seconds: int

    def __post_init__(self) -> None:
        if not 0 < self.count < 10**6 or self.seconds not in _PERIODS.values():
            raise UnitError("a rate is at least one request in a second, minute, hour or day")

    @classmethod
    def parse(cls, text: str) -> Rate:
        """Read ``10/s``; the units are s, m, h and d. ``UnitError`` for anything else, zero included."""
        match = _RATE.fullmatch(text)
        if match is None:
            raise UnitError(f"rate {text[:40]!a} is not of the form 10/s, 100/m, 1000/h or 5000/d")
        return cls(int(match[1]), _PERIODS[match[2]])

    def __str__(self) -> str:
        unit = next(unit for unit, seconds in _PERIODS.items() if seconds == self.seconds)
        return f"{self.count}/{unit}"


def parse_size(text: str) -> int:
    """Bytes; MB is 10^6 of them and MiB 2^20. ``UnitError`` unless it is a whole number with one unit."""
    match = _SIZE.fullmatch(text)
    if match is None:
        raise UnitError(f"size {text[:40]!a} is not a number of bytes such as 512, 64kB, 10MB or 1MiB")
    return int(match[1]) * _FACTORS[match[2] or "B"]


def parse_duration(text: str) -> float:
    """Seconds, from ``90``, ``1.5s``, ``10m``, ``2h`` or ``1d``. ``UnitError`` for anything else."""
    match = _DURATION.fullmatch(text)
    if match is None:
        raise UnitError(f"time {text[:40]!a} is not a number of seconds, or of the form 90s, 10m, 2h or 1d")
    return float(match[1]) * _PERIODS[match[2] or "s"]


def size_text(size: int) -> str:
    """The shortest exact way to write a number of bytes."""
    for unit in ("GiB", "GB", "MiB", "MB", "KiB", "kB"):
        if size and size % _FACTORS[unit] == 0:
            return f"{size // _FACTORS[unit]}{unit}"
    return str(size)
