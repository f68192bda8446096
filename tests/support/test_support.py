"""The tests' own tools: each must be able to say no."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.support import leftovers, probes, processes, waiting
from tests.support.sources import ROOT


def test_eventually_gives_the_first_true_value() -> None:
    answers = iter([0, "", "yes", "never asked"])
    assert waiting.eventually(lambda: next(answers)) == "yes"


def test_eventually_gives_up() -> None:
    with pytest.raises(AssertionError, match="pigs fly"):
        waiting.eventually(lambda: False, 0.01, "pigs fly")


def test_readable_waits_for_something_to_read() -> None:
    reading, writing = os.pipe()
    assert not waiting.readable(reading, 0.01)
    os.write(writing, b"x")
    assert waiting.readable(reading)
    os.close(reading)
    os.close(writing)


def test_a_process_that_only_waits_to_be_reaped_is_not_alive() -> None:
    with subprocess.Popen(["true"]) as child:
        waiting.eventually(lambda: not processes.alive(child.pid))
        assert processes.process(child.pid) is not None
    assert processes.process(child.pid) is None
    assert processes.alive(os.getpid())


@pytest.fixture
def orphan() -> int:
    """The pid of a process that left our family, session and environment behind."""
    command = "setsid env -i sleep 600 </dev/null >/dev/null 2>&1 & echo $!"
    pid = int(subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True).stdout)
    return int(waiting.eventually(lambda: pid if processes.alive(pid) else 0))


def test_what_is_left_behind_is_found(tmp_path: Path, orphan: int) -> None:
    os.kill(orphan, signal.SIGKILL)
    waiting.eventually(lambda: not processes.alive(orphan))
    before = leftovers.surroundings(tmp_path)
    assert leftovers.left_since(before, tmp_path, 0) == []
    namespace = os.open("/proc/self/ns/net", os.O_RDONLY)
    (tmp_path / "forgotten").touch()
    with socket.socket() as open_socket, subprocess.Popen(["sleep", "600"]) as child:
        left = "\n".join(leftovers.left_since(before, tmp_path, 0.1))
        child.kill()
        assert f"descriptors: {namespace} -> net:[" in left
        assert f"descriptors: {open_socket.fileno()} -> socket:[" in left
        assert "files: forgotten" in left
        assert f"processes: {child.pid} sleep" in left
    os.close(namespace)
    (tmp_path / "forgotten").unlink()
    assert leftovers.left_since(before, tmp_path) == []


def test_an_orphan_is_still_known_as_ours(orphan: int) -> None:
    try:
        assert orphan not in processes.descendants(os.getpid()) or os.getppid() == 1
        assert orphan in processes.marked_like(os.getpid())
        assert any(line.startswith(f"{orphan} ") for line in leftovers.surroundings(Path("/")).processes)
    finally:
        os.kill(orphan, signal.SIGKILL)


@pytest.mark.root
def test_a_mount_is_found(tmp_path: Path) -> None:
    before = leftovers.surroundings(tmp_path)
    subprocess.run(["mount", "-t", "tmpfs", "none", str(tmp_path)], check=True)
    left = leftovers.left_since(before, tmp_path, 0)
    subprocess.run(["umount", str(tmp_path)], check=True)
    assert left == [f"mounts: {tmp_path}"]


def test_a_probe_that_does_not_exist_is_an_error() -> None:
    with pytest.raises(LookupError, match="unicorn"):
        probes.missing(["unicorn"])


def test_every_test_has_a_home_of_its_own(private_home: Path) -> None:
    assert Path.home() == private_home
    assert not list(private_home.iterdir())
    assert Path(tempfile.gettempdir()).parent == private_home.parent
    assert len(str(private_home)) < 60


def test_a_short_folder_is_short_enough_for_a_socket(short_tmp: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(short_tmp / ("x" * 40)))


@pytest.mark.root
def test_an_ordinary_user_gets_through_sudo(through_sudo: list[str]) -> None:
    command = [*through_sudo, "sh", "-c", "id -u; echo $SUDO_USER"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert done.stdout == "0\nnsharness-test\n"


# --- what the marks do ----------------------------------------------------------------------------

EXAMPLE = """
import functools, os, tempfile
import pytest
from tests.support import leftovers, probes

REASON = "the kernel said no (ask it again)"
leftovers.left_since = functools.partial(leftovers.left_since, timeout=0.1)
probes.missing = lambda names: [f"{name}: {REASON}" for name in names if name == "never"]

@pytest.mark.kernel("never")
def test_gated(): pass

@pytest.mark.kernel
def test_clean(): pass

@pytest.mark.kernel
def test_untidy(): tempfile.mkdtemp()

@pytest.mark.root
def test_as_root(): assert os.geteuid() == 0

@pytest.mark.rootless
def test_as_user(): assert os.geteuid() != 0

@pytest.mark.slow
def test_slow(): pass
"""


def outcome(folder: Path, *arguments: str) -> str:
    """What pytest says about the example, with the project's conftest; its exit code in the last line."""
    path = folder / "test_example.py"
    path.write_text(EXAMPLE)
    options = ["-p", "no:cacheprovider", "-p", "tests.conftest", "-c", str(ROOT / "pyproject.toml")]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, "--rootdir", str(folder), *arguments, str(path)],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if name not in ("CI", "PYTEST_XDIST_WORKER")},
    )
    return f"{done.stdout}{done.stderr}\nexit code {done.returncode}"


# Starting pytest is what takes the time: two runs tell everything, and one worker looks at both.
ONCE = pytest.mark.xdist_group("example")


@pytest.fixture(scope="module")
def lenient(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Everything that this user may run."""
    return outcome(tmp_path_factory.mktemp("lenient"), "--slow")


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Nothing slow, and what the kernel does not allow is a failure."""
    return outcome(tmp_path_factory.mktemp("strict"), "--require-probes", "-k", "not tidy")


@ONCE
def test_what_the_kernel_does_not_allow_is_skipped_with_the_reason(lenient: str) -> None:
    assert "1 skipped" in lenient
    assert "never: the kernel said no (ask it again)" in lenient


@ONCE
def test_in_ci_what_the_kernel_does_not_allow_is_a_failure(strict: str) -> None:
    assert "this machine does not allow never: the kernel said no" in strict
    assert "1 error" in strict
    assert strict.endswith("exit code 1")


@ONCE
def test_what_is_left_behind_is_an_error_of_the_test(lenient: str) -> None:
    assert "1 error" in lenient
    assert "left behind:\nfiles: tmp" in lenient
    assert "ERROR at teardown of test_untidy" in lenient
    assert lenient.endswith("exit code 1")


@ONCE
def test_marks_select_by_uid_and_slowness(lenient: str, strict: str) -> None:
    # Clean, untidy, slow, and one of the two that ask for a uid; the other is deselected.
    assert "4 passed, 1 skipped, 1 deselected, 1 error" in lenient
    assert "2 passed, 3 deselected, 1 error" in strict
