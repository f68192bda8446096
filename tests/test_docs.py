"""The documentation says what the code does."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from nsharness.linux.probe import REQUIRED
from nsharness.policy.connecting import NetworkSettings
from nsharness.policy.load import load_profile
from nsharness.policy.profile import Bound, Profile, SandboxProxyRule
from nsharness.policy.resources import LimitSettings
from nsharness.policy.schema import schema_table
from nsharness.policy.sharing import PrivilegeSettings

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str, text: str = README) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def test_the_table_of_profile_keys_is_the_schema() -> None:
    text = (ROOT / "docs" / "profiles.md").read_text(encoding="utf-8")
    assert schema_table(Profile) in text
    assert schema_table(SandboxProxyRule) in text
    assert schema_table(Bound) in text
    assert schema_table(LimitSettings) in text
    assert schema_table(NetworkSettings) in text
    assert schema_table(PrivilegeSettings) in text


@pytest.mark.parametrize("block", blocks("toml"))
def test_profiles_in_the_readme_load(block: str, tmp_path: Path) -> None:
    path = tmp_path / "profile.toml"
    path.write_text(block, encoding="utf-8")
    assert load_profile(path).sandbox_proxy_rules


def test_the_readme_has_a_profile_and_a_program() -> None:
    assert blocks("toml")
    assert blocks("python")


@pytest.mark.parametrize("block", blocks("python"))
def test_programs_in_the_readme_use_names_that_exist(block: str) -> None:
    """Everything but the ``with`` block, which needs a kernel and a server, is executed."""
    head, separator, _ = block.partition("with Sandbox(")
    assert separator
    compile(block, "README.md", "exec")
    names: dict[str, object] = {}
    exec(head, names)
    assert isinstance(names["profile"], Profile)


@pytest.mark.parametrize("path", [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))], ids=str)
def test_commands_in_the_documentation_exist(path: Path) -> None:
    from nsharness.cli.parser import parser

    (subparsers,) = (a for a in parser()._actions if hasattr(a, "choices") and a.dest == "command")
    known = set(subparsers.choices or ())
    for command in re.findall(r"`nsharness ([a-z]+)", path.read_text(encoding="utf-8")):
        assert command in known, command


TOOLS = (ROOT / "docs" / "tools.md").read_text(encoding="utf-8")
EXAMPLES = [
    *blocks("python", (ROOT / "docs" / "python.md").read_text(encoding="utf-8")),
    *blocks("python", TOOLS),
]


def test_the_settings_of_a_client_start_a_command_that_there_is() -> None:
    from nsharness.cli.parser import parser

    (block,) = blocks("json", TOOLS)
    for server in json.loads(block)["mcpServers"].values():
        assert server["command"] == "nsharness"
        assert parser().parse_args(server["args"]).command == "mcp"


@pytest.mark.slow
@pytest.mark.kernel(*REQUIRED)
@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_examples_run_as_they_are_written(number: int, short_tmp: Path) -> None:
    """Each in an interpreter and a folder of its own; what they promise they assert themselves."""
    short_tmp.chmod(0o777)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        [sys.executable, "-c", EXAMPLES[number]],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=short_tmp,
        env={**os.environ, "XDG_STATE_HOME": str(short_tmp / "state"), "PATH": path},
    )
    assert done.returncode == 0, done.stderr
