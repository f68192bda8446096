"""``nsharness diff``, ``apply`` and ``discard``: what a run changed in its overlay."""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import asdict
from typing import Any, Final

from nsharness.errors import NsharnessError
from nsharness.linux.identity import current
from nsharness.overlay.apply import apply as carry_over
from nsharness.overlay.changes import Change, select
from nsharness.overlay.patch import patch, shown
from nsharness.overlay.remove import remove_tree
from nsharness.overlay.risk import risk
from nsharness.overlay.tree import LayerError, compare
from nsharness.supervisor import layers
from nsharness.supervisor.state import RunDirectory, find_run

_LETTERS: Final = {"add": "A", "modify": "M", "retype": "T", "mode": "m", "delete": "D"}


def diff(options: argparse.Namespace) -> int:
    """Show the changes; also while the run lives, when they are those of a moment."""
    run = find_run(current(), options.run)
    with layers.opened_layers(run) as opened:
        found = _compare(run, opened)
        if options.json:
            print(json.dumps([_object(change) for change in found]))
        elif options.patch:
            for change in found:
                print("\n".join(patch(change, opened.upper.descriptor, opened.lower)))
        else:
            for change in found:
                print(_line(change))
    return 0


def apply(options: argparse.Namespace) -> int:
    """Carry the changes over, or those at and below the named paths. 1 when one was not applied."""
    run = find_run(current(), options.run)
    locked = layers.lock(run)
    try:
        with layers.opened_layers(run) as opened:
            found = _compare(run, opened)
            if options.path:
                paths = [_relative(path, opened.workspace) for path in options.path]
                found, missed = select(found, paths)
                if missed:
                    raise NsharnessError(f"nothing changed at {missed[0]!a}", hint="nsharness diff lists it")
            upper, began_ns = opened.upper.descriptor, opened.began_ns
            outcomes = [*carry_over(found, upper, opened.lower, began_ns=began_ns, force=options.force)]
    finally:
        locked.close()
    if options.json:
        print(json.dumps([asdict(outcome) for outcome in outcomes]))
    else:
        for each in outcomes:
            why = f": {each.why}" if each.why else ""
            print(f"{each.result:<8} {_LETTERS[each.action]} {shown(each.path)}{why}")
        for each in outcomes:
            if each.warning:
                print(f"nsharness: warning: {shown(each.path)}: {each.warning}", file=sys.stderr)
    return int(any(each.result != "applied" for each in outcomes))


def discard(options: argparse.Namespace) -> int:
    """Remove the overlay with all that the run changed."""
    run = find_run(current(), options.run)
    locked = layers.lock(run)
    try:
        with run.identity.files():
            folder = os.open(run.path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                remove_tree(folder, "overlay")
            finally:
                os.close(folder)
    except OSError as error:
        raise NsharnessError(
            f"cannot remove the overlay of run {run.id}", why=error.strerror or str(error)
        ) from error
    finally:
        locked.close()
    print(f"{run.id} discarded")
    return 0


def _compare(run: RunDirectory, opened: layers.Opened) -> tuple[Change, ...]:
    try:
        return compare(opened.upper, opened.lower)
    except (OSError, LayerError) as error:
        raise NsharnessError(f"cannot read the overlay of run {run.id}", why=str(error)) from error


def _relative(path: str, workspace: str) -> str:
    path = os.path.normpath(path)
    relative = os.path.relpath(path, workspace) if path.startswith("/") else path
    if relative == ".." or relative.startswith("../"):
        raise NsharnessError(f"{path!a} is not in the workspace", why=f"that is {workspace}")
    return "" if relative == "." else relative


def _line(change: Change) -> str:
    line = f"{_LETTERS[change.action]} {shown(change.path)}"
    if change.after is not None and change.after.kind != "file":
        line += f" ({change.after.kind})"
    if change.action == "mode" and change.before and change.after:
        line += f" ({change.before.mode:o} to {change.after.mode:o})"
    reason = risk(change)
    return line + (f"  ! {reason}" if reason else "")


def _object(change: Change) -> dict[str, Any]:
    node = change.after or change.before
    assert node is not None
    return {
        "path": change.path,
        "action": change.action,
        "kind": node.kind,
        "mode": None if change.after is None else f"{change.after.mode:o}",
        "target": change.after.target if change.after and change.after.kind == "symlink" else None,
        "warning": risk(change),
    }
