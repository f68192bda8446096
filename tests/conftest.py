"""What every test gets: a private home, a gate for what the machine must allow, a look at what it leaves.

A test says what it needs with a mark: ``kernel``, ``root``, ``rootless``, ``slow`` or ``exhaustive`` (see
pyproject.toml).
What a uid cannot do is deselected; what the kernel does not allow is skipped with the reason, in CI it fails.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import prctl
import pytest

from tests.support import leftovers, probes, processes, waiting

# Which engine of the proxy is tested; see ``--engine``.
ENGINE = "NSHARNESS_TEST_ENGINE"

# How long an example takes says nothing on a machine that runs other things as well.
hypothesis.settings.register_profile("quick", hypothesis.settings(), deadline=None, max_examples=40)
hypothesis.settings.register_profile("thorough", hypothesis.settings(), deadline=None, max_examples=200)
# As many as hypothesis makes by itself.
hypothesis.settings.register_profile("usual", hypothesis.settings(), deadline=None, max_examples=100)
hypothesis.settings.load_profile("quick")

# Tests in these folders and modules do the same as root and as an ordinary user; where time is short, once is
# enough. (The main job as root is in stages/test_sudo.py.)
TWINS = {
    *("clients", "contract", "escape", "proxy"),
    *("test_control", "test_exec", "test_facade", "test_run_stage4", "test_shell", "test_terminal"),
}


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("nsharness")
    group.addoption(
        "--require-probes",
        action="store_true",
        default=os.environ.get("CI", "").lower() in ("1", "true"),
        help="a kernel facility that is missing is a failure, not a skip (default when CI=true)",
    )
    group.addoption("--engine", choices=["fast", "mitmproxy"], help="the proxy's engine in tests/proxy")
    group.addoption("--slow", action="store_true", help="run the tests marked slow as well")
    group.addoption("--exhaustive", action="store_true", help="run all tests, however long they take")
    group.addoption("--counts", metavar="FILE", help="write how many tests passed, failed … to FILE")


def pytest_configure(config: pytest.Config) -> None:
    # A shell without job control starts what is in the background with these ignored, and so would we.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGQUIT, signal.SIG_DFL)
    if engine := config.getoption("--engine"):
        os.environ[ENGINE] = engine
    if config.getoption("--exhaustive"):
        hypothesis.settings.load_profile("thorough")
    elif config.getoption("--slow"):
        hypothesis.settings.load_profile("usual")
    if hasattr(config, "workerinput") or not config.getoption("numprocesses", default=None):
        # By chance, so that two runs of the tests on one machine are most likely to have different ones.
        processes.mark(secrets.randbelow(50_000) + 1)


@pytest.hookimpl(tryfirst=True)  # before marks are selected by
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    unwanted = {"rootless" if os.geteuid() == 0 else "root"}
    if not config.getoption("--exhaustive"):
        unwanted.add("exhaustive")
        if not config.getoption("--slow"):
            unwanted.add("slow")
    for item in items:
        if {item.path.parent.name, item.path.stem} & TWINS:
            item.add_marker("twin")
    dropped = [item for item in items if any(item.get_closest_marker(name) for name in unwanted)]
    if dropped:
        config.hook.pytest_deselected(items=dropped)
        items[:] = [item for item in items if item not in set(dropped)]


def pytest_runtest_setup(item: pytest.Item) -> None:
    needed = [name for marker in item.iter_markers("kernel") for name in marker.args]
    why = probes.missing(needed) if needed else []
    if why and item.config.getoption("--require-probes"):
        pytest.fail("this machine does not allow " + "; ".join(why), pytrace=False)
    if why:
        pytest.skip("this machine does not allow " + "; ".join(why))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    path = config.getoption("--counts")
    if path:
        kinds = ("passed", "failed", "error", "skipped", "xfailed", "deselected")
        lines = [f"{kind} {len(terminalreporter.stats.get(kind, ()))}\n" for kind in kinds]
        Path(path).write_text("".join(lines), encoding="ascii")


@pytest.fixture(scope="session", autouse=True)
def _fixed_base_of_tmp_path(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Decide where tmp_path lives before a test's private TMPDIR could."""
    tmp_path_factory.getbasetemp()
    yield
    while _untouched:
        _remove(_untouched.pop())


@pytest.fixture
def short_tmp() -> Iterator[Path]:
    """An empty folder with a path short enough for unix sockets inside (108 bytes, unix(7))."""
    folder = Path(tempfile.mkdtemp(prefix="t-"))
    yield folder
    _remove(folder)


_untouched: list[Path] = []
"""A folder that the test before found and left empty, for the next one: most tests have no use for it."""


@pytest.fixture(autouse=True)
def private_home(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A home and a folder for temporary files that end with the test; nobody's settings, nobody's proxies."""
    folder = _untouched.pop() if _untouched else _new_folder()
    home, temporary = folder / "home", folder / "tmp"
    for name in list(os.environ):
        ours = name.startswith(("XDG_", "NSHARNESS_")) and name != ENGINE
        if ours or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("TMPDIR", str(temporary))
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    yield home
    if _is_untouched(folder):
        _untouched.append(folder)
    else:
        _remove(folder)


def _new_folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="h-"))
    folder.chmod(0o711)  # a program that gives up root must still reach its temporary files
    (folder / "home").mkdir(mode=0o700)
    (folder / "tmp").mkdir()
    (folder / "tmp").chmod(0o1777)
    return folder


def _is_untouched(folder: Path) -> bool:
    """Whether it is as it was made, so that nobody can tell it from a new one."""
    wanted = {folder: 0o40711, folder / "home": 0o40700, folder / "tmp": 0o41777}
    try:
        found = {path: path.lstat() for path in wanted}
        names = [name for path in wanted for name in os.listdir(path)]  # noqa: PTH208 - once for each test
    except OSError:
        return False
    kept = all(
        (found[path].st_mode, found[path].st_uid) == (mode, os.geteuid()) for path, mode in wanted.items()
    )
    return kept and sorted(names) == ["home", "tmp"]


@pytest.fixture(autouse=True)
def _dumpable_again() -> Iterator[None]:
    """The command line makes its process undumpable, also for a test; the next one needs its /proc/self."""
    yield
    if prctl.get_dumpable() != 1:
        prctl.set_dumpable(1)


@pytest.fixture(autouse=True)
def leak_check(request: pytest.FixtureRequest, private_home: Path) -> Iterator[None]:
    """A test marked ``kernel`` leaves nothing behind."""
    if request.node.get_closest_marker("kernel") is None:
        yield
        return
    temporary = private_home.parent / "tmp"
    before = leftovers.surroundings(temporary)
    yield
    left = leftovers.left_since(before, temporary)
    if left:
        pytest.fail("left behind:\n" + "\n".join(left), pytrace=False)


@pytest.fixture
def through_sudo(pytestconfig: pytest.Config) -> list[str]:
    """The words before a command that make an ordinary user run it through a real sudo; in the root half.

    scripts/test makes that user and allows it sudo, in the mount namespace of its root half only.
    """
    user = "nsharness-test"
    words = ["setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups", "sudo", "-n"]
    try:
        done = subprocess.run([*words, "true"], capture_output=True, text=True, timeout=30)
        why = done.stderr.strip()
    except FileNotFoundError as error:
        why = str(error)
    if why and pytestconfig.getoption("--require-probes"):
        pytest.fail(f"no sudo for {user}: {why} (install sudo and run scripts/test)", pytrace=False)
    if why:
        pytest.skip(f"no sudo for {user}: {why} (install sudo and run scripts/test)")
    return words


@pytest.fixture
def eventually() -> Callable[..., object]:
    """``eventually(predicate, timeout)``: see ``tests.support.waiting``."""
    return waiting.eventually


def _remove(folder: Path) -> None:
    def make_writable(remove: Callable[..., object], path: str, _: BaseException) -> None:
        Path(path).parent.chmod(0o700)
        if Path(path).is_dir() and not Path(path).is_symlink():
            Path(path).chmod(0o700)
        remove(path)

    shutil.rmtree(folder, onexc=make_writable)
