"""What a workload may do with which files, derived from the steps of its plan: the rules of a second layer.

The mounts say the same already; should one of them be made wrongly, or be changed, Landlock still refuses. It
only ever adds up: a right that is given to a folder holds for everything below it, whatever is mounted there.
So what is read-only inside a writable folder (a protected path, say) is left to the mount alone.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Literal

from nsharness.frozen import frozen
from nsharness.plan.steps import (
    Bind,
    Device,
    Devpts,
    Overlay,
    Proc,
    ReadOnly,
    Step,
    Tmpfs,
)

type Right = Literal["read", "execute", "write", "make", "device"]

_READ: Final[frozenset[Right]] = frozenset({"read"})


@frozen
class Grant:
    """Rights on a file, or on a folder and everything below it.

    ``read`` files and folders, ``execute`` programs, ``write`` to what is there, ``make``, remove and rename
    entries, give a ``device`` commands (ioctl(2)).
    """

    path: str
    rights: frozenset[Right]


def grants(steps: Iterable[Step]) -> tuple[Grant, ...]:
    """Everything that is allowed, by a plan's steps or by some of them; the rest is refused. The same path
    never comes twice."""
    steps = tuple(steps)
    closed = {step.path for step in steps if isinstance(step, ReadOnly)}
    found: dict[str, frozenset[Right]] = {"/": _READ}
    for step in steps:
        rights = _rights(step, closed)
        if rights:
            found[step.path] = found.get(step.path, frozenset()) | rights
    return tuple(Grant(path, rights) for path, rights in found.items())


def _rights(step: Step, closed: set[str]) -> frozenset[Right]:
    """Beside reading, which is allowed everywhere: what is not to be read is not there."""
    match step:
        case Bind(writable=writable, noexec=noexec):
            return _of("write" if writable else "", "make" if writable else "", "" if noexec else "execute")
        case Overlay():
            return _of("write", "make", "execute")
        case Tmpfs(path=path, noexec=noexec):
            own = path not in closed
            return _of("write" if own else "", "make" if own else "", "" if noexec else "execute")
        case Device() | Devpts():
            # Reading too: what a descriptor from outside leads to, opened anew over /proc, is not below /.
            return _of("read", "write", "device")
        case Proc():
            return _of("write")
        case _:
            return frozenset()


def _of(*rights: Right | Literal[""]) -> frozenset[Right]:
    return frozenset(right for right in rights if right)


def describe(given: Iterable[Grant]) -> list[str]:
    """Lines for people, in the manner of the plan's: for each kind of right the paths that have it."""
    collected = tuple(given)
    lines = []
    rights: tuple[Right, ...] = ("read", "execute", "write", "make", "device")
    for right in rights:
        paths = [grant.path for grant in collected if right in grant.rights]
        lines.append(f"landlock   {right}: {' '.join(paths) or 'nothing'}")
    return lines
