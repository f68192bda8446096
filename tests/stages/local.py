"""A stand-in for the sandbox: bash in a folder, with the real mocks behind the names.

Where the sandbox has its own ``/tmp`` there is a folder, and where the proxy attaches the token there is a
``.curlrc``. The commands of SKILL.md run otherwise as they are written.
"""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.unit.agent.fakes import Result

KEEP_STATE = """
set -a
if [ -f "$HOME/.state" ]; then . "$HOME/.state"; fi
{command}
status=$?
export -p > "$HOME/.state"
exit $status
"""


@dataclass(frozen=True, slots=True)
class LocalShell:
    """Runs each command in a bash of its own, and hands the variables on to the next."""

    home: Path

    def run(self, command: str, timeout: float = 60.0) -> Result:
        script = KEEP_STATE.format(command=command.replace("/tmp/", f"{self.home}/tmp/"))
        done = subprocess.run(
            ["bash", "-c", script],
            capture_output=True,
            text=True,
            timeout=timeout,
            env={"HOME": str(self.home), "PATH": os.environ["PATH"]},
            cwd=self.home / "tmp",
        )
        return Result(done.stdout, done.returncode, done.stderr)


@dataclass(slots=True)
class LocalSandbox:
    """A ``SandboxPort`` over a folder; ``token`` is what the proxy would attach."""

    home: Path
    upstream: tuple[str, int]
    token: str | None
    id: str = "local"

    def __post_init__(self) -> None:
        (self.home / "tmp").mkdir(parents=True)
        address, port = self.upstream
        lines = [f'connect-to = "wiki.local:80:{address}:{port}"', 'noproxy = "*"']
        if self.token is not None:
            lines.append(f'header = "Authorization: Bearer {self.token}"')
        (self.home / ".curlrc").write_text("\n".join(lines) + "\n")

    @property
    def shell(self) -> LocalShell:
        return LocalShell(self.home)

    def read_file(self, path: str, limit: int = 1_000_000) -> bytes:
        return (self.home / path.lstrip("/")).read_bytes()[:limit]

    def write_file(self, path: str, data: bytes) -> None:
        (self.home / path.lstrip("/")).write_bytes(data)
