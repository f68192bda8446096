"""Mount overlays (overlayfs, Documentation/filesystems/overlayfs.rst) for the workload.

The mounter's file-system user is the workload's: overlayfs works on the layers with the rights of whoever
mounted it, so that what the workload makes there is its own, and no capability of ours is lent to it.
"""

from __future__ import annotations

import os
from typing import Final

from nsharness.linux import libc, mounts
from nsharness.linux.fds import close_all
from nsharness.linux.process import file_access_as
from nsharness.plan.steps import Overlay, Plan

type Layers = tuple[int, int, int]

_DIRECTORY: Final = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def open_layers(plan: Plan) -> dict[int, Layers]:
    """Descriptors of lower, upper and work directory of each overlay, by the step's number in the plan."""
    layers: dict[int, Layers] = {}
    for index, step in enumerate(plan.steps):
        if isinstance(step, Overlay):
            opened: list[int] = []
            try:
                with file_access_as(plan.uid, plan.gid):
                    opened.append(os.open(step.source, _DIRECTORY))
                opened.extend(_open_kept(path, plan) for path in (step.upper, step.work))
            except OSError as error:
                close_all([*opened, *(one for three in layers.values() for one in three)])
                raise OSError(error.errno, f"{step.describe()}: {error.strerror}") from error
            layers[index] = (opened[0], opened[1], opened[2])
    return layers


def _open_kept(path: str, plan: Plan) -> int:
    """A directory in the run's folder, which is the workload's user's, or root's own when root has nobody
    behind it; the path is ours, no workload had a hand in it."""
    try:
        with file_access_as(plan.uid, plan.gid):
            return os.open(path, _DIRECTORY)
    except PermissionError:
        return os.open(path, _DIRECTORY)


def mount(layers: Layers, place: str) -> None:
    """Mount one at ``place``. Its options name descriptors: no character of a path has a meaning there."""
    lower, upper, work = (f"/proc/self/fd/{descriptor}" for descriptor in layers)
    options = f"lowerdir={lower},upperdir={upper},workdir={work},userxattr"
    libc.mount("overlay", place, "overlay", mounts.MS_NOSUID | mounts.MS_NODEV, options)
