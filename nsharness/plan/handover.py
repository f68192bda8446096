"""A plan on its way to the process that carries it out: a line of JSON, then what is in its large files.

A sandbox's bundles of certificates are half a megabyte. The process that becomes PID 1 would have to take
them apart and would keep the memory; so it has the kernel copy them from one file to the other.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable
from itertools import takewhile
from typing import Final

from nsharness.frozen import frozen, replace
from nsharness.plan.steps import (
    Bind,
    Device,
    Devpts,
    Directory,
    File,
    Mask,
    Plan,
    Proc,
    ReadOnly,
    Step,
    Stored,
    Symlink,
    Tmpfs,
)

_AHEAD: Final = (Bind, Device, Devpts, Directory, File, Mask, Proc, ReadOnly, Symlink, Tmpfs)

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


@frozen
class Beginning:
    """What plans of one session begin with: steps that are taken before the rest of a plan is known.

    ``number`` tells one from another; 0 is none at all.
    """

    number: int = 0
    uid: int = -1
    gid: int = -1
    steps: tuple[Step, ...] = ()

    def fits(self, plan: Plan) -> bool:
        """Whether the plan begins so."""
        count = len(self.steps)
        return not self.number or (
            (self.uid, self.gid) == (plan.uid, plan.gid)
            and plan.steps[:count] == self.steps
            and not _closed(plan.steps[count:]).intersection(_private(self.steps))
        )

    def to_json(self) -> str:
        """As JSON; ``from_json`` gives an equal one back."""
        steps = replace(_NOTHING, steps=self.steps).to_json()
        return json.dumps([self.number, self.uid, self.gid, steps])

    @classmethod
    def from_json(cls, text: bytes) -> Beginning:
        """Read what ``to_json`` wrote."""
        number, uid, gid, steps = json.loads(text)
        return cls(number, uid, gid, Plan.from_json(steps).steps)


_NOTHING: Final = Plan("", "", -1, -1, "/", {}, ())


def shared(before: Plan, now: Plan) -> int:
    """With how many steps both plans begin that can be taken before it is known which of them it will be."""
    if (before.uid, before.gid) != (now.uid, now.gid):
        return 0
    pairs = zip(before.steps, now.steps, strict=False)
    closed = _closed(now.steps)
    same = takewhile(lambda pair: pair[0] == pair[1] and _ahead(pair[1], closed), pairs)
    return sum(1 for _ in same)


def _ahead(step: Step, closed: set[str]) -> bool:
    return isinstance(step, _AHEAD) and step != ReadOnly("/") and not closed.intersection(_private([step]))


def _closed(steps: Iterable[Step]) -> set[str]:
    """What becomes read-only: a private file system that does is granted less from the start."""
    return {step.path for step in steps if isinstance(step, ReadOnly)}


def _private(steps: Iterable[Step]) -> list[str]:
    return [step.path for step in steps if isinstance(step, Tmpfs)]
