"""Make overlays (overlayfs, Documentation/filesystems/overlayfs.rst) for the workload.

overlayfs works on its layers with the rights of whoever mounted it, and needs CAP_DAC_OVERRIDE among them. So
a helper process mounts it, as the workload's user, with capabilities only in a user namespace of its own in
which that user is the only one: nothing is lent to the workload, as root no more than without. What comes
back is a detached mount, like that of any other source.
"""

from __future__ import annotations

import os
import posixpath
import socket

from nsharness.linux import fds, libc, mounts, process, userns
from nsharness.plan.steps import Overlay


def mounted(step: Overlay, uid: int, gid: int) -> int:
    """A detached overlay for that user, close-on-exec. ``OSError`` as the kernel gives it."""
    ours, theirs = fds.message_pair()
    with ours, theirs:
        pid = os.fork()
        if pid == 0:
            _helper(step, uid, gid, theirs)
        theirs.close()
        message, descriptors = fds.receive(ours)
        os.waitpid(pid, 0)
    if not descriptors:
        message = message or {"errno": 0, "why": "its helper process ended"}
        raise OSError(message["errno"], message["why"])
    return descriptors[0]


def _helper(step: Overlay, uid: int, gid: int, answer: socket.socket) -> None:
    """Never returns."""
    try:
        # The working directory follows into a new mount namespace (unshare(2)); an open descriptor would stay
        # in the old one, and overlayfs takes no layer from there.
        _enter(posixpath.dirname(step.upper), uid, gid)
        process.become_keeping_capabilities(uid, gid)
        process.make_dumpable()
        userns.enter_new(os.CLONE_NEWNS)
        flags = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        # By a descriptor's name: no character of a path has a meaning in the options then.
        lower = f"/proc/self/fd/{os.open(step.source, flags)}"
        upper, work = posixpath.basename(step.upper), posixpath.basename(step.work)
        options = f"lowerdir={lower},upperdir={upper},workdir={work},userxattr"
        libc.mount("overlay", lower, "overlay", mounts.MS_NOSUID | mounts.MS_NODEV, options)
        tree = mounts.clone_tree(os.open(step.source, flags))
        fds.send(answer, {}, [tree])
    except OSError as error:
        fds.send(answer, {"errno": error.errno or 0, "why": error.strerror or str(error)})
    finally:
        os._exit(0)


def _enter(path: str, uid: int, gid: int) -> None:
    """Go to the directory of the layers: the person's own, or root's when nobody is behind root."""
    try:
        with process.file_access_as(uid, gid):
            os.chdir(path)
    except PermissionError:
        os.chdir(path)
