"""scripts/bootstrap on machines that lack something. In uv's place is a script that writes down its calls."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.sources import ROOT

# What a machine is taken to have; nothing else is on the path.
TOOLS = (
    "bash cat curl cut dirname env flock getent grep id ln mkdir mktemp readlink rm sed setpriv sh sha256sum "
    "sleep stat tail test tr"
)

UV = """#!/bin/sh
echo "$*" >>"{journal}"
case $1 in
    --version) echo "uv 0.13.0 (fake)" ;;
    venv) mkdir -p "$4/bin" && ln -sf "$3" "$4/bin/python" ;;
    python) [ "$2" != find ] || {{ echo "{managed}"; exit; }}; {pip} ;;
    *) {pip} ;;
esac
"""


class Machine:
    """A checkout and a path with few programs on it."""

    def __init__(self, folder: Path) -> None:
        self.checkout = folder / "checkout"
        self.bin = folder / "bin"
        self.journal = folder / "journal"
        self.bin.mkdir()
        for name in TOOLS.split():
            (self.bin / name).symlink_to(shutil.which(name) or f"/no/{name}")
        for name in ("scripts", "requirements"):
            shutil.copytree(ROOT / name, self.checkout / name)
        for name in ("nsharness", "proxy", "mocks"):
            (self.checkout / name).mkdir()
        shutil.copy(ROOT / "pyproject.toml", self.checkout)
        self.environment = {"PATH": str(self.bin), "HOME": str(folder), "TMPDIR": str(folder)}

    def program(self, name: str, text: str = "#!/bin/sh\nexit 0\n") -> None:
        path = self.bin / name
        path.unlink(missing_ok=True)
        path.write_text(text)
        path.chmod(0o755)

    def compiler(self) -> None:
        self.program("cc")
        self.program("cpp")

    def python(self, name: str = "python3.12") -> None:
        """An interpreter that satisfies every question under this name."""
        path = self.bin / name
        self.program(name, f'#!/bin/sh\ncase $* in *_base_executable*) echo "{path}" ;; esac\n')

    def uv(self, pip: str = "true") -> None:
        managed = self.bin / "provided-by-uv"
        self.program("uv", UV.format(journal=self.journal, pip=pip, managed=managed))

    def bootstrap(
        self, *arguments: str, environment: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(self.checkout / "scripts" / "bootstrap"), *arguments],
            capture_output=True,
            text=True,
            timeout=60,
            env={**self.environment, **(environment or {})},
            cwd="/",
        )

    def calls(self) -> list[str]:
        """What uv was asked to do since the last call of this."""
        lines = self.journal.read_text().splitlines() if self.journal.exists() else []
        self.journal.unlink(missing_ok=True)
        return [line for line in lines if line != "--version"]


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


@pytest.fixture
def complete(machine: Machine) -> Machine:
    machine.compiler()
    machine.python()
    machine.uv()
    return machine


def test_the_environment_is_made_once(complete: Machine) -> None:
    first = complete.bootstrap()
    assert (first.returncode, first.stdout) == (0, f"{complete.checkout}/.venv\n"), first.stderr
    venv, sync, install = complete.calls()
    assert venv.startswith("venv --python /")
    assert "--require-hashes" in sync
    assert sync.endswith("requirements/run.txt")
    assert install.endswith("--editable .")
    second = complete.bootstrap()
    assert (second.returncode, second.stdout, second.stderr) == (0, first.stdout, "")
    assert complete.calls() == []


def test_repeating_takes_less_than_half_a_second(complete: Machine) -> None:
    complete.bootstrap()

    def seconds() -> float:
        start = time.monotonic()
        complete.bootstrap()
        return time.monotonic() - start

    assert min(seconds() for _ in range(3)) < 0.5


def test_an_environment_for_tests_serves_both_and_is_not_taken_down(complete: Machine) -> None:
    complete.bootstrap("test")
    assert complete.calls()[1].endswith("requirements/test.txt")
    complete.bootstrap("run")
    assert complete.calls() == []
    with (complete.checkout / "pyproject.toml").open("a") as file:
        file.write("\n")
    complete.bootstrap("run")
    assert complete.calls()[0].endswith("requirements/test.txt")


@pytest.mark.parametrize("name", ["pyproject.toml", "requirements/run.txt", "requirements/build.txt"])
def test_a_changed_pin_makes_the_environment_anew(complete: Machine, name: str) -> None:
    complete.bootstrap()
    complete.calls()
    with (complete.checkout / name).open("a") as file:
        file.write("# changed\n")
    assert complete.bootstrap().returncode == 0
    assert len(complete.calls()) == 2  # the interpreter stays


def test_an_interpreter_that_has_gone_is_replaced(complete: Machine) -> None:
    complete.bootstrap()
    complete.calls()
    python = complete.checkout / ".venv" / "bin" / "python"
    python.unlink()
    python.symlink_to("/nowhere/python")
    assert complete.bootstrap().returncode == 0
    assert len(complete.calls()) == 3


def test_many_at_once_make_it_once(complete: Machine) -> None:
    complete.uv(pip="sleep 0.2")
    with ThreadPoolExecutor(6) as pool:
        results = list(pool.map(lambda _: complete.bootstrap(), range(6)))
    assert {(done.returncode, done.stdout) for done in results} == {(0, f"{complete.checkout}/.venv\n")}
    assert len(complete.calls()) == 3


def test_an_interrupted_installation_is_done_again(complete: Machine) -> None:
    complete.bootstrap("run")
    complete.uv(pip="exit 1")
    assert complete.bootstrap("test").returncode == 125
    complete.uv()
    complete.calls()
    assert complete.bootstrap("run").returncode == 0
    assert complete.calls()


@pytest.mark.rootless
def test_who_may_not_write_into_the_checkout_has_an_environment_elsewhere(complete: Machine) -> None:
    complete.checkout.chmod(0o555)
    done = complete.bootstrap()
    complete.checkout.chmod(0o755)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(complete.environment["HOME"] + "/.cache/nsharness/")


def test_the_interpreter_is_one_that_really_runs(machine: Machine) -> None:
    machine.program("python3.12", "#!/bin/sh\necho 'pyenv: python3.12: command not found' >&2\nexit 127\n")
    assert machine.bootstrap("--find-python").returncode == 1
    machine.program("python3", f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    found = machine.bootstrap("--find-python")
    assert Path(found.stdout.strip()).samefile(sys.executable)


def test_an_interpreter_that_is_too_old_is_passed_over(machine: Machine) -> None:
    old = "import sys, types; sys.version_info = (3, 11, 9, 'final', 0); exec(sys.argv.pop(1))"
    machine.program("python3.12", f'#!/bin/sh\nexec "{sys.executable}" -I -c "{old}" "$3"\n')
    assert machine.bootstrap("--find-python").returncode == 1


def test_an_inactive_pyenv_version_is_found(machine: Machine) -> None:
    folder = Path(machine.environment["HOME"], ".pyenv", "versions", "3.12.99", "bin")
    folder.mkdir(parents=True)
    (folder / "python3").symlink_to(Path(sys.executable).resolve())
    assert machine.bootstrap("--find-python").stdout == f"{Path(sys.executable).resolve()}\n"


def test_an_interpreter_can_come_from_uv(machine: Machine) -> None:
    machine.compiler()
    machine.uv()
    machine.python("provided-by-uv")
    assert machine.bootstrap().returncode == 0
    assert machine.calls()[0] == "python install 3.12"
    assert (machine.checkout / ".venv" / "bin" / "python").samefile(machine.bin / "provided-by-uv")


def test_an_interpreter_that_comes_with_the_packages_is_used(machine: Machine) -> None:
    """An image of Ubuntu 24.04 or Debian 13 without Python: what brings pip brings a Python that will do."""
    machine.compiler()
    machine.uv()
    (machine.bin / "uv").rename(machine.bin / "uv-to-come")
    for name in ("chmod", "cp", "touch", "true"):
        (machine.bin / name).symlink_to(shutil.which(name) or f"/no/{name}")
    machine.program("sudo", '#!/bin/sh\n[ "$1" = -n ] && shift\nexec "$@"\n')
    uv = f"{machine.checkout}/.venv-tools/bin"
    machine.program(
        "python-to-come",
        "#!/bin/sh\ncase $* in\n"
        f'    *_base_executable*) echo "{machine.bin}/python3" ;;\n'
        f'    *Python.h*) [ -e "{machine.bin}/headers" ] ;;\n'
        f"    *version_info*) echo 3.12 ;;\n"
        f'    *"pip install"*) mkdir -p "{uv}" && cp "{machine.bin}/uv-to-come" "{uv}/uv" ;;\n'
        "esac\n",
    )
    machine.program(
        "apt-get",
        f'#!/bin/sh\necho "apt-get $*" >>"{machine.journal}"\n'
        f'case $* in *python3-venv*) cp "{machine.bin}/python-to-come" "{machine.bin}/python3" ;; esac\n',
    )
    (machine.bin / "headers").touch()
    done = machine.bootstrap()
    assert done.returncode == 0, done.stderr
    calls = machine.calls()
    assert [call for call in calls if call.startswith("apt-get install")] == [
        "apt-get install --yes --no-install-recommends python3-venv"
    ]
    assert not [call for call in calls if call.startswith("python install")]
    assert "asking uv for one" not in done.stderr


def no_python(machine: Machine) -> str:
    machine.compiler()
    machine.uv(pip="echo 'error: no such host' ; exit 2")
    return r"no CPython >= 3.12 here, nor from uv: error: no such host (put a python3.12 on the path)"


def no_uv(machine: Machine) -> str:
    machine.compiler()
    return "missing: pip (no package manager that this script knows: install them, then repeat the command)"


def no_compiler(machine: Machine) -> str:
    machine.python()
    machine.program("apt-get")
    return "sudo apt-get install --yes --no-install-recommends gcc libc6-dev libcap-dev"


def no_curl(machine: Machine) -> str:
    machine.compiler()
    machine.python()
    (machine.bin / "curl").unlink()
    machine.program("dnf")
    return "sudo dnf install --assumeyes curl"


def no_headers(machine: Machine) -> str:
    machine.compiler()
    machine.python()
    python = (machine.bin / "python3.12").read_text()
    machine.program("python3.12", python + "case $* in *Python.h*) exit 1 ;; esac\n")
    machine.program("apt-get")
    return "python3.12 has no header files (put another CPython >= 3.12 first on the path"


def no_index(machine: Machine) -> str:
    machine.compiler()
    machine.python()
    machine.uv(pip="echo 'error: failed'; echo '  cause: no route to host'; exit 2")
    return "uv pip failed: cause: no route to host (is the package index reachable?"


@pytest.mark.rootless  # root would install what is missing
@pytest.mark.parametrize("lack", [no_python, no_uv, no_compiler, no_headers, no_curl, no_index])
def test_a_failure_is_one_line_with_the_remedy(machine: Machine, lack: Callable[[Machine], str]) -> None:
    expected = lack(machine)
    done = machine.bootstrap()
    assert (done.returncode, done.stdout) == (125, "")
    progress = ("asking uv", "setting up")
    lines = [line for line in done.stderr.splitlines() if not any(word in line for word in progress)]
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("nsharness: ")
    assert expected in lines[0]


def test_a_wrong_argument_is_one_line(machine: Machine) -> None:
    done = machine.bootstrap("tset")
    assert (done.returncode, done.stdout) == (125, "")
    assert done.stderr == "nsharness: unknown argument tset (usage: scripts/bootstrap [run|test])\n"


@pytest.mark.root
def test_root_leaves_the_checkout_of_a_user_to_that_user(short_tmp: Path) -> None:
    machine = Machine(short_tmp)
    machine.compiler()
    machine.python()
    machine.uv()
    user = 54321
    for path in [short_tmp, *short_tmp.rglob("*")]:
        os.chown(path, user, user, follow_symlinks=False)
    for _ in range(2):  # made, and found
        done = machine.bootstrap()
        assert done.returncode == 0, done.stderr
        assert len(machine.calls()) in (3, 0)
    assert (machine.checkout / ".venv" / "made-for").exists()
    assert [path for path in short_tmp.rglob("*") if path.lstat().st_uid != user] == []
