"""Presets from end to end: the real command line, the real tools, and hosts that demand the credential."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path

import pytest

from nsharness.linux.probe import REQUIRED
from tests.clients.conftest import repository
from tests.clients.host import NAME, Host
from tests.proxy.tlshost import Authority
from tests.support.clients import need
from tests.support.program import Program

pytestmark = pytest.mark.kernel(*REQUIRED)

TOKEN = "ghp_" + "Qx7" * 12
PASSWORD = base64.b64encode(b"user:hunter2hunter2").decode()


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    """Is whatever host a profile maps to it, and takes what GitHub and an index with a password take."""
    authority = Authority(tmp_path)
    (tmp_path / "ca.pem").write_text(authority.pem)
    context = authority.server("github.com", "api.github.com", NAME)
    context.set_alpn_protocols(["http/1.1"])
    need("git")
    repository(tmp_path / "git" / "one.git")
    pair = base64.b64encode(f"x-access-token:{TOKEN}".encode()).decode()
    with Host((f"Basic {pair}", f"token {TOKEN}", f"Basic {PASSWORD}"), context, tmp_path / "git") as made:
        yield made


@pytest.fixture
def program(tmp_path: Path, host: Host) -> Program:
    names = ("github.com", "api.github.com", NAME)
    mapped = "".join(f'"{name}:443" = "127.0.0.1:{host.port}"\n' for name in names)
    text = f'upstream_ca = "ca.pem"\n\n[upstreams]\n{mapped}'
    (tmp_path / "p.toml").write_text(text)
    return Program(tmp_path)


def run(program: Program, folder: Path, preset: str, script: str, **environ: str) -> str:
    options = ["--profile", str(folder / "p.toml"), "--no-workspace", "--preset", preset]
    done = program("exec", *options, "--", "sh", "-ec", f"cd; {script}", env=environ)
    assert done.returncode == 0, done
    for secret in (TOKEN, PASSWORD, "hunter2"):
        assert secret not in done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_github_is_cloned_from_and_asked(program: Program, host: Host, tmp_path: Path) -> None:
    need("git-http-backend")
    program("secret", "set", "github", "--key", "token", stdin=TOKEN)
    ask = 'curl -sS -o /dev/null -w "%{http_code}" -H "Authorization: token $GH_TOKEN" https://api.github.com'
    script = f"""
    git clone -q https://github.com/smart/one.git work; cat work/README
    {ask}/user; {ask}/gists; {ask}/user/keys
    case $GH_TOKEN in ghp_nsph*|ghp_NSPH*) echo placeholder;; *) echo "$GH_TOKEN";; esac
    """
    # The imitation has no such page, which is known only to whom it lets in.
    assert run(program, tmp_path, "github", script).split() == ["hello404403403placeholder"]
    assert "GET /user" in host.served
    assert not [path for path in host.served if "gists" in path or "keys" in path]


@pytest.mark.slow
def test_an_index_of_this_machines_configuration_is_used_with_its_password(
    program: Program, host: Host, tmp_path: Path
) -> None:
    need("pip3")
    program("secret", "set", "python", "--key", "basic", stdin=PASSWORD)
    script = (
        "env | grep INDEX; python3 -m pip download -q --no-cache-dir --disable-pip-version-check thing; ls"
    )
    address = f"https://user:hunter2@{NAME}/simple/"
    told = run(program, tmp_path, "python", script, PIP_INDEX_URL=address)
    assert f"PIP_INDEX_URL=https://{NAME}/simple/" in told.split()
    assert "thing-1.0-py3-none-any.whl" in told.split()
    assert host.refused == []
