"""A plan on its way to the process that carries it out: a line of JSON, then what is in its large files.

A sandbox's bundles of certificates are half a megabyte. The process that becomes PID 1 would have to take
them apart and would keep the memory; so it has the kernel copy them from one file to the other.
"""

from __future__ import annotations

import base64
from dataclasses import replace
from typing import Final

from nsharness.plan.steps import File, Plan, Step, Stored

LARGE: Final = 4096
"""Bytes, or characters, from which on a file's content is not in the line."""


def split(plan: Plan) -> tuple[Plan, bytes]:
    """The plan without what is in its large files, and that."""
    contents: list[bytes] = []
    at = 0
    steps: list[Step] = []
    for step in plan.steps:
        if isinstance(step, File) and not step.owned and len(step.content) >= LARGE:
            contents.append(data(step))
            steps.append(Stored(step.path, at, len(contents[-1]), step.mode))
            at += len(contents[-1])
        else:
            steps.append(step)
    return replace(plan, steps=tuple(steps)), b"".join(contents)


def packed(plan: Plan, contents: bytes) -> bytes:
    """What ``split`` gave as one file."""
    return plan.to_json().encode() + b"\n" + contents


def data(step: File) -> bytes:
    """What is in the file."""
    return base64.b64decode(step.content, validate=True) if step.binary else step.content.encode()


def unpacked(line: bytes) -> Plan:
    """The plan from the file's first line, its end included; the other contents stay in the file, and each
    ``Stored`` says where. Raises what ``Plan.from_json`` does."""
    plan = Plan.from_json(line)
    steps = (
        replace(step, at=step.at + len(line)) if isinstance(step, Stored) else step for step in plan.steps
    )
    return replace(plan, steps=tuple(steps))
