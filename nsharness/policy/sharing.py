"""What people write about the host's files, and about what is allowed beyond the ordinary."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    StrictBool,
    StrictInt,
    StrictStr,
)

from nsharness.policy import checks, filesystem
from nsharness.policy.filesystem import PROTECTED
from nsharness.policy.strict import Strict

_NotNull = BeforeValidator(checks.not_null)
_Text = Annotated[StrictStr, Field(min_length=1)]


FilePath = Annotated[_Text, AfterValidator(filesystem.path)]
_Glob = Annotated[_Text, AfterValidator(filesystem.glob)]
_Below = Annotated[_Text, AfterValidator(filesystem.relative)]


class FilesystemSettings(Strict):
    """What of the host's files the workload sees. Relative paths are relative to the profile's file."""

    workspace: Annotated[FilePath | None, _NotNull] = Field(
        default=None, description="Folder of the host that the workload works in. Absent: none."
    )
    workspace_mode: Literal["rw", "ro", "overlay"] = Field(
        default="rw",
        description="What the workload's changes there become: written to the folder (`rw`), refused (`ro`), "
        "or kept aside until `nsharness apply` (`overlay`).",
    )
    read_only: Annotated[tuple[FilePath, ...], _NotNull, AfterValidator(checks.unique)] = Field(
        default=(), description="Files and folders of the host that the workload may read."
    )
    read_write: Annotated[tuple[FilePath, ...], _NotNull, AfterValidator(checks.unique)] = Field(
        default=(), description="Files and folders of the host that the workload may read and write."
    )
    hide: Annotated[tuple[_Glob, ...], _NotNull, AfterValidator(checks.unique)] = Field(
        default=(),
        description="Globs of what is hidden in every shared folder: `.env*` by name at any depth, "
        "`config/**/*.key` by path. Hidden files read as empty, hidden folders are empty.",
    )
    protect: Annotated[tuple[_Below, ...], _NotNull, AfterValidator(checks.unique)] = Field(
        default=PROTECTED,
        description="Paths in the workspace that are read-only in mode `rw` where they exist at the start: "
        "tools of the host would run what stands there.",
    )
    size: Annotated[
        StrictStr | StrictInt | None, _NotNull, AfterValidator(checks.at_least_bytes(1 << 16))
    ] = Field(
        default=None,
        description="Another way to write `tmp` of `[limits]`: the size of each private file system.",
    )


class PrivilegeSettings(Strict):
    """What the workload may do beyond what every workload may."""

    user_namespaces: StrictBool = Field(
        default=False,
        description="Lets programs make user namespaces, and pid, network and ipc namespaces in them, and "
        "call `chroot` there: the sandboxes of Chromium and Firefox need it. More of the kernel can be "
        "attacked then. Without it nothing in the sandbox can make a namespace.",
    )
