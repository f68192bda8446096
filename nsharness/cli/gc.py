"""``nsharness gc``: remove what killed runs have left behind."""

from __future__ import annotations

import argparse
import json

from nsharness.frozen import as_dict
from nsharness.linux.identity import current
from nsharness.supervisor.orphans import Orphan, collect


def gc(options: argparse.Namespace) -> int:
    """One line for each thing; 1 when something is still there that should not be."""
    found = collect(current(), dry_run=options.dry_run)
    if options.json:
        print(json.dumps([as_dict(orphan) for orphan in found]))
    else:
        for orphan in found:
            print(f"{_verb(orphan, options.dry_run)} {orphan.describe()}")
        if not found:
            print("nothing was left behind")
    return 0 if options.dry_run or all(orphan.gone for orphan in found) else 1


def _verb(orphan: Orphan, dry_run: bool) -> str:
    if dry_run:
        return "would mark as ended" if orphan.kind == "record" else "would remove"
    if not orphan.gone:
        return "cannot remove"
    return "marked as ended" if orphan.kind == "record" else "removed"
