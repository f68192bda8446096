"""Contenders side by side in one run: every round asks each of them once, so that all share the noise."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

Contender = Callable[[], float | None]
"""Does the thing once and returns a figure, or None: then the seconds that it took are the figure."""


@dataclass(frozen=True, slots=True)
class Row:
    """What one contender came to, over all rounds."""

    name: str
    figures: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.figures)

    @property
    def spread(self) -> float:
        """Half the distance between the quartiles, as a part of the median."""
        if not self.median:
            return 0.0
        if len(self.figures) < 4:
            return (max(self.figures) - min(self.figures)) / 2 / self.median
        low, _, high = statistics.quantiles(self.figures, n=4)
        return (high - low) / 2 / self.median


@dataclass(frozen=True, slots=True)
class Table:
    """One comparison: its first row is what the ratios are to, where there are any."""

    title: str
    unit: str
    scale: float
    rows: tuple[Row, ...]
    ratios: bool = True

    def lines(self) -> list[str]:
        base = self.rows[0].median
        found = [self.title]
        for row in self.rows:
            figure = f"{row.median * self.scale:10.2f} {self.unit} ±{row.spread:4.0%}"
            ratio = f"   {row.median / base:7.2f} ×" if self.ratios else ""
            found.append(f"  {row.name:<44} {figure}{ratio}")
        return found

    def to_json(self) -> dict[str, Any]:
        """As it is kept; single figures are not."""
        return {
            "title": self.title,
            "unit": self.unit,
            "ratios": self.ratios,
            "rows": {
                row.name: {
                    "median": float(f"{row.median * self.scale:.5g}"),
                    "spread": round(row.spread, 3),
                    "rounds": len(row.figures),
                }
                for row in self.rows
            },
        }


def compare(
    title: str, contenders: Mapping[str, Contender], rounds: int, *, unit: str = "ms", scale: float = 1000.0
) -> Table:
    """Measure in turns; the first time of each is for warming up."""
    figures: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(rounds + 1):
        for name, contender in contenders.items():
            begun = time.perf_counter()
            given = contender()
            figure = time.perf_counter() - begun if given is None else given
            if number:
                figures[name].append(figure)
    return Table(title, unit, scale, tuple(Row(name, tuple(found)) for name, found in figures.items()))
