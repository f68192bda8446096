"""Reload as a person does it: a file is changed while a run goes on."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

import nsharness
from nsharness.stages import stage4
from tests.support.program import Program, Running

pytestmark = pytest.mark.kernel("userns", "procfs", "veth", "mount_setattr", "pidfd")

PACKAGE = str(Path(nsharness.__file__).parents[1])
# The stage's own profile comes with the package: this run has a copy.
MAIN = (
    f"import sys; sys.path[:0] = [{PACKAGE!r}, {PACKAGE + '/proxy'!r}, {PACKAGE + '/mocks'!r}]\n"
    "from pathlib import Path\n"
    "from nsharness.cli import main\n"
    "from nsharness.stages import stage4\n"
    "stage4.FOLDER = Path(sys.argv.pop(1))\n"
    "sys.exit(main())\n"
)
WEBHOOK = '\n[[sandbox_proxy_rules]]\nname = "hook"\nhosts = ["webhook.local"]\n'


class Copied(Program):
    """Runs with a copy of the stage, which a test may change."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.stage = folder / "stage4"
        shutil.copytree(stage4.FOLDER, self.stage, ignore=shutil.ignore_patterns("__pycache__"))
        self.profile = self.stage / "profile.toml"
        self.first = self.profile.read_text()

    def argv(self, arguments: Sequence[str]) -> list[str]:
        return [sys.executable, "-I", "-c", MAIN, str(self.stage), *arguments]


@pytest.fixture
def program(tmp_path: Path) -> Copied:
    return Copied(tmp_path)


@pytest.fixture
def held(program: Copied) -> Iterator[Running]:
    with program.start("run", "stage4", "--hold") as running:
        running.expect("^Ctrl-C")
        yield running


def status(program: Copied, held: Running) -> str:
    """What the webhook's host answers; its rule is what these tests change."""
    run = held.expect(r"Started \(id=(stage4-[0-9a-f]+)")[1]
    asking = ["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "http://webhook.local/nothing"]
    return program("enter", run, "--", *asking).stdout


@pytest.mark.slow
def test_a_run_takes_a_changed_profile_and_refuses_a_bad_one(program: Copied, held: Running) -> None:
    """By the command and by the signal; and a proxy that is started again has the new one."""
    run = held.expect(r"Started \(id=(stage4-[0-9a-f]+)")[1]
    assert status(program, held) == "403"
    program.profile.write_text(program.first + WEBHOOK)
    done = program("reload", run)
    assert (done.returncode, done.stdout) == (0, "profile stage4 reloaded: rules added: ['hook']\n"), done
    assert status(program, held) == "404"

    os.kill(int(held.expect(r"proxy\] +Started \(pid (\d+)")[1]), signal.SIGKILL)
    assert status(program, held) == "404"
    held.expect(r"ended unexpectedly \(status -9\)")

    program.profile.write_text(program.first + WEBHOOK + "hostz = 1\n")
    done = program("reload", run)
    assert (done.returncode, done.stdout) == (125, "")
    assert "hostz" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    held.expect("reload refused, nothing has changed: .*hostz")
    assert status(program, held) == "404"

    program.profile.write_text(
        program.first + WEBHOOK + 'paths = ["/no"]\nheaders = { X = "{{ new.one }}" }\n'
    )
    assert "filled in at the start" in program("reload", run).stderr
    assert status(program, held) == "404"

    program.profile.write_text(program.first)
    held.process.send_signal(signal.SIGHUP)
    held.expect(r"nsharness\] +profile stage4 reloaded: rules removed: \['hook'\]")
    assert status(program, held) == "403"


def test_a_run_that_has_ended_reloads_nothing(program: Copied) -> None:
    done = program("reload", "none")
    assert done.returncode == 125
    assert "no run 'none'" in done.stderr
