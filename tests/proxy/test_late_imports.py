"""What is imported while the proxy serves: the one thing that was announced, as it was at the start."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.proxy.rig import DEADLINE, UNPRIVILEGED

_PROGRAM = """
import importlib.util, importlib._bootstrap_external as external, os, sys
from pathlib import Path
from nsharness_proxy.late import Imports
from nsharness_proxy.report import Report
folder, what, uid = sys.argv[1:]
sys.path.insert(0, folder)
said = []
imports = Imports(Report(said.append))
imports.close()
if what == "plant":
    Path(folder, "wanted.py").write_text("print('planted')")
elif what == "shadow":
    Path(folder, "wanted").mkdir()
    Path(folder, "wanted", "__init__.py").write_text("print('planted')")
elif what == "cache":
    # As if it had been compiled from the file that is there.
    source = Path(folder, "wanted.py")
    code = compile("print('planted')", "wanted.py", "exec")
    status = source.stat()
    cached = Path(importlib.util.cache_from_source(str(source)))
    cached.parent.mkdir(exist_ok=True)
    cached.write_bytes(external._code_to_timestamp_pyc(code, int(status.st_mtime), status.st_size))
    os.utime(cached, (0, 0))
elif what == "renamed":
    Path(folder, "other.py").rename(Path(folder, "wanted.py"))
if uid != "0":
    os.chmod(Path(folder).parent, 0o700)
    os.setuid(int(uid))
if what == "naive":
    sys.meta_path.remove(imports)
    Path(folder, "wanted.py").write_text("print('planted')")
if what in ("unannounced", "naive"):
    import wanted
else:
    imports.load("wanted")
"""


def load(tmp_path: Path, what: str, uid: int = 0) -> subprocess.CompletedProcess[str]:
    folder = tmp_path / "modules"
    folder.mkdir()
    (folder / "wanted.py").write_text("import helper\nprint('genuine')\n")
    (folder / "helper.py").write_text("import ssl, json.tool\n")
    (folder / "other.py").write_text("print('planted')")
    arguments = [sys.executable, "-I", "-B", "-c", _PROGRAM, str(folder), what, str(uid)]
    return subprocess.run(arguments, capture_output=True, text=True, timeout=DEADLINE, cwd="/")


def test_what_was_announced_is_loaded(tmp_path: Path) -> None:
    assert load(tmp_path, "as it was").stdout == "genuine\n"


@pytest.mark.root
def test_it_is_loaded_from_folders_that_cannot_be_entered_any_more(tmp_path: Path) -> None:
    assert load(tmp_path, "as it was", UNPRIVILEGED).stdout == "genuine\n"


def test_nothing_else_is(tmp_path: Path) -> None:
    done = load(tmp_path, "unannounced")
    assert done.stdout == ""
    assert "wanted was not imported before privileges were given up" in done.stderr


@pytest.mark.parametrize("attack", ["plant", "shadow", "renamed", "cache"])
def test_what_was_put_there_meanwhile_is_not(tmp_path: Path, attack: str) -> None:
    """K20: who can write where the interpreter looks runs nothing in the process with the secrets."""
    done = load(tmp_path, attack)
    assert "planted" not in done.stdout
    # A compiled file is done without.
    assert done.stdout == ("genuine\n" if attack == "cache" else ""), done.stderr


def test_an_import_as_usual_would_run_it(tmp_path: Path) -> None:
    """That the attacks above are some."""
    assert load(tmp_path, "naive").stdout == "planted\n"


def test_the_engine_that_is_loaded_late_is_not_there_before() -> None:
    program = (
        "import sys, nsharness_proxy.engine, nsharness_proxy.loader\n"
        "print([name for name in sys.modules if name.startswith('mitmproxy.proxy.layers')])"
    )
    done = subprocess.run([sys.executable, "-I", "-c", program], capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr
