"""One sandbox for all clients, and the host that they talk to."""

from __future__ import annotations

import importlib.util
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from nsharness.credentials.store import SecretStore
from nsharness.linux.identity import current
from nsharness.policy.load import load_profile
from nsharness.supervisor.channel import Message
from nsharness.supervisor.credentials import resolve
from nsharness.supervisor.proxy import NamespaceProxy
from nsharness.supervisor.sandbox import NamespaceSandbox
from nsharness.supervisor.session import Session
from tests.clients.host import NAME, Host
from tests.clients.rig import Rig
from tests.proxy.tlshost import Authority
from tests.support.clients import need

PROFILE = """
name = "clients"
upstream_ca = "ca.pem"

[[sandbox_proxy_rules]]
name = "service"
hosts = ["{name}"]
headers = {{ Authorization = "Bearer {{{{ service.token }}}}" }}

[upstreams]
"{name}:443" = "127.0.0.1:{port}"

[filesystem]
read_only = ["{tools}"]
"""

LIBRARIES = (
    *("requests", "urllib3", "certifi", "idna", "charset_normalizer"),
    *("httpx", "httpcore", "h11", "anyio", "sniffio", "typing_extensions"),
)


@pytest.fixture(scope="module")
def tools() -> Iterator[Path]:
    """A folder that the sandbox sees, with the libraries that the tests' own interpreter has.

    The interpreter in the sandbox is the system's; of libraries with compiled parts it uses the others.
    """
    folder = Path(tempfile.mkdtemp(prefix="nsharness-clients-", dir="/var/tmp"))
    folder.chmod(0o755)
    for name in LIBRARIES:
        spec = importlib.util.find_spec(name)
        if spec is None or spec.origin is None:
            continue
        origin = Path(spec.origin)
        if origin.name == "__init__.py":
            ignored = shutil.ignore_patterns("__pycache__", "*.so")
            shutil.copytree(origin.parent, folder / "lib" / name, ignore=ignored)
        else:
            (folder / "lib").mkdir(exist_ok=True)
            shutil.copy(origin, folder / "lib")
    uv = shutil.which("uv") or str(Path(f"{sys.prefix}-tools/bin/uv"))
    if Path(uv).is_file():
        shutil.copy(uv, folder / "uv")
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def rig(tools: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    need("git")
    folder = tmp_path_factory.mktemp("clients")
    token = secrets.token_urlsafe(24)
    authority = Authority(folder)
    (folder / "ca.pem").write_text(authority.pem)
    context = authority.server(NAME)
    context.set_alpn_protocols(["http/1.1"])
    repositories = folder / "git"
    repository(repositories / "one.git")
    messages: list[Message] = []
    with pytest.MonkeyPatch.context() as patch, Host((f"Bearer {token}",), context, repositories) as host:
        for name in ("STATE", "DATA"):
            patch.setenv(f"XDG_{name}_HOME", str(folder / name.lower()))
        identity = current()
        SecretStore.default(identity.home, os.environ).set("service", "token", token.encode())
        text = PROFILE.format(name=NAME, port=host.port, tools=tools)
        (folder / "clients.toml").write_text(text)
        profile = load_profile(folder / "clients.toml")
        with (
            resolve(profile, identity) as credentials,
            Session("clients", identity=identity) as session,
            NamespaceProxy(session, profile, credentials, on_audit=messages.append) as proxy,
            NamespaceSandbox(session, profile, proxy) as sandbox,
        ):
            assert sandbox.run(["curl", "-sSf", f"https://{NAME}/echo"]).stdout == b"welcome "
            yield Rig(sandbox, host, token, messages, session.hub.flush)
    assert not [thread for thread in threading.enumerate() if "process_request" in thread.name]


def repository(path: Path) -> None:
    """A bare one with one commit, for both kinds of servers."""
    subprocess.run(["git", "init", "-q", "--bare", "-b", "main", str(path)], check=True)
    git = ["git", "-C", str(path), "-c", "user.name=t", "-c", "user.email=t@example.org"]
    blob = ["hash-object", "-w", "--stdin"]

    def out(*arguments: str, text: str = "") -> str:
        done = subprocess.run([*git, *arguments], input=text, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    tree = out("mktree", text=f"100644 blob {out(*blob, text='hello')}\tREADME\n")
    out("update-ref", "refs/heads/main", out("commit-tree", tree, "-m", "first"))
    out("update-server-info")
