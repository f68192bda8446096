"""The page of benchmarks is what its generator makes of the figures beside it."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from tests.support.sources import ROOT

DOCS = ROOT / "docs"
RECORD = json.loads((DOCS / "benchmarks.json").read_text(encoding="utf-8"))


Load = Callable[[str], Any]


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Load:
    """Gives a module of ``scripts/bench``, which is no package."""
    monkeypatch.syspath_prepend(str(ROOT / "scripts" / "benchmarks"))
    for name in ("report", "targets", "measure"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return importlib.import_module


def test_page_and_plot_are_made_from_the_figures(load: Load) -> None:
    report = load("report")
    assert (DOCS / "benchmarks.md").read_text(encoding="utf-8") == report.page(RECORD)
    assert (DOCS / "benchmarks.svg").read_text(encoding="utf-8") == report.plot(RECORD)


def test_the_plot_is_svg(load: Load) -> None:
    assert ET.fromstring(load("report").plot(RECORD)).tag == "{http://www.w3.org/2000/svg}svg"


def test_every_target_is_in_the_page_and_those_of_what_was_measured_have_a_figure(load: Load) -> None:
    text = load("report").page(RECORD)
    titles = {table["title"] for table in RECORD["tables"]}
    for target in load("targets").TARGETS:
        assert f"| {target.what} | {target.bound} {target.number:g} |" in text
        if target.table in titles:
            rows = next(table["rows"] for table in RECORD["tables"] if table["title"] == target.table)
            assert not target.row.startswith("nsharness") or target.row in rows, target


def test_a_target_says_by_how_much_it_was_missed(load: Load) -> None:
    measure, target = load("measure"), load("targets").Target
    row = measure.Row
    rows = (row("ours", (3.0, 3.0)), row("theirs", (2.0, 2.0)), row("none", (1.0, 1.0)))
    record = {"machine": {}, "tables": [measure.Table("T", "ms", 1.0, rows).to_json()]}
    most = target("w", "T", "ours", "≤", 1.0, "theirs")
    assert most.measured(record) == 1.5
    assert most.verdict(1.5) == "missed: 1.50 times away"
    assert most.verdict(1.0) == "reached"
    assert target("w", "T", "ours", "≤", 1.0, "theirs", "none").measured(record) == 2.0
    assert target("w", "T", "ours", "≥", 6.0).verdict(3.0) == "missed: 2.00 times away"
    assert target("w", "T", "ours", "≤", 0.0).verdict(3.0) == "missed by 3"
    assert target("w", "T", "elsewhere", "≤", 1.0).measured(record) is None
