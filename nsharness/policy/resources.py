"""The profile's ``[limits]``: what people write, and the numbers that it means."""

from __future__ import annotations

from typing import Annotated

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    StrictBool,
    StrictFloat,
    StrictInt,
    StrictStr,
)

from nsharness.policy import checks
from nsharness.policy.strict import Strict
from nsharness.policy.units import parse_duration, parse_size

_NotNull = BeforeValidator(checks.not_null)


class LimitSettings(Strict):
    """How much of the host a sandbox may use."""

    memory: Annotated[
        StrictStr | StrictInt | None, _NotNull, AfterValidator(checks.at_least_bytes(32 << 20))
    ] = Field(
        default=None,
        description="Memory of everything inside together, files in memory included: bytes, `512MiB`, "
        "`4GB`. Who goes over it ends the whole sandbox, with exit code 137. Absent: no limit.",
    )
    pids: Annotated[StrictInt | None, _NotNull, Field(ge=8, le=4_194_304)] = Field(
        default=None,
        description="Processes and threads at one time. Absent: 4096, where that can be enforced.",
    )
    cpu: Annotated[StrictFloat | StrictInt | None, _NotNull, Field(ge=0.01, le=4096)] = Field(
        default=None, description="Cores; `0.5` is half of one. Absent: no limit."
    )
    tmp: Annotated[StrictStr | StrictInt, _NotNull, AfterValidator(checks.at_least_bytes(1 << 16))] = Field(
        default="1GiB",
        description="Size of each private file system: the home directory, `/tmp` and `/var/tmp` (`/run` and "
        "`/dev/shm` have no more than that either).",
    )
    open_files: Annotated[StrictInt | None, _NotNull, Field(ge=256, le=1_048_576)] = Field(
        default=None,
        description="Open descriptors of each process, at least 256 (the shell uses high ones). Absent: what "
        "nsharness itself has.",
    )
    wall: Annotated[StrictStr | StrictInt | StrictFloat | None, _NotNull, AfterValidator(checks.duration)] = (
        Field(
            default=None,
            description="Time from the start on: seconds, or `90s`, `10m`, `2h`. Then the sandbox is ended, "
            "with exit code 124. Absent: no limit.",
        )
    )
    output: Annotated[StrictStr | StrictInt | None, _NotNull, AfterValidator(checks.at_least_bytes(1000))] = (
        Field(
            default=None,
            description="Bytes of each output stream of a command that are kept. Absent: 200kB in the shell, "
            "1MB of other programs.",
        )
    )
    best_effort: StrictBool = Field(
        default=False,
        description="Lets a limit that cannot be enforced here be weaker, or absent; the plan then says so. "
        "Without it such a limit is an error.",
    )

    def values(self) -> dict[str, int | float | bool | None]:
        """The limits as numbers, in bytes, seconds and cores; None for those that are absent."""
        sizes = {
            name: None if (size := getattr(self, name)) is None else parse_size(str(size))
            for name in ("memory", "tmp", "output")
        }
        wall = self.wall if isinstance(self.wall, int | float | None) else parse_duration(self.wall)
        others = {name: getattr(self, name) for name in ("pids", "cpu", "open_files", "best_effort")}
        return {**sizes, **others, "wall": wall}
