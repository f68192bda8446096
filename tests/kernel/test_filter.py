"""The filter of system calls as a whole run has it: what its switch opens, and a start without libseccomp."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from nsharness.linux.seccomp import Library
from nsharness.supervisor.session import Session
from tests.support.program import Program
from tests.support.sandboxes import Box, needs_sandbox, opened_box

pytestmark = needs_sandbox

MAKES_A_ROOT = "unshare --user --map-root-user id -u"


def test_no_workload_makes_namespaces_unless_its_profile_lets_it(session: Session, box: Box) -> None:
    assert box.bash(MAKES_A_ROOT).exit_code != 0
    with opened_box(session, privilege={"user_namespaces": True}) as opened:
        assert opened.out(MAKES_A_ROOT) == "0"
        # As far as a browser goes, and no further.
        for more in ("--mount", "--uts", "--cgroup", "--time"):
            assert opened.bash(f"unshare --user --map-root-user {more} true").exit_code != 0
        assert "CapEff:\t0000000000000000" in opened.out("cat /proc/self/status")


@pytest.mark.slow
@pytest.mark.root
def test_without_libseccomp_nothing_starts_and_one_line_says_what_to_install(tmp_path: Path) -> None:
    Library()  # loads it, so that the kernel tells where it is
    mapped = Path("/proc/self/maps").read_text(encoding="utf-8")
    (path,) = {line.split()[-1] for line in mapped.splitlines() if "libseccomp" in line}
    program = Program(tmp_path)
    hidden = f'mount --bind /dev/null {path} && exec "$@"'
    words = [
        "unshare",
        "--mount",
        "sh",
        "-c",
        hidden,
        "sh",
        *program.argv(["exec", "--no-workspace", "echo", "started"]),
    ]
    done = subprocess.run(
        words, capture_output=True, text=True, timeout=60, env=program.environment, cwd=tmp_path, check=False
    )
    assert (done.returncode, done.stdout) == (125, "")
    assert len(done.stderr.splitlines()) == 1
    assert "install libseccomp" in done.stderr
