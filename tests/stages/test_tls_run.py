"""A run with TLS on every side: authorities of the profile, client certificates, identity by certificate."""

from __future__ import annotations

import os
import signal
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from nsharness.credentials.store import SecretStore
from nsharness.errors import NsharnessError
from nsharness.linux.identity import current
from nsharness.policy.load import load_profile
from nsharness.supervisor.credentials import resolve
from nsharness.supervisor.proxy import NamespaceProxy
from nsharness.supervisor.sandbox import NamespaceSandbox
from nsharness.supervisor.session import Session
from tests.proxy.tlshost import Authority
from tests.proxy.upstreams import Upstream
from tests.support import leaks
from tests.support.certificates import Client
from tests.support.waiting import eventually

pytestmark = pytest.mark.kernel("userns", "procfs", "veth", "mount_setattr", "pidfd")

PROFILE = """
name = "tls"
upstream_ca = "ca.pem"
{more}

[[sandbox_proxy_rules]]
name = "corp"
hosts = ["secure.local"]
client_cert = "{{{{ corp.cert }}}}"
client_key = "{{{{ corp.key }}}}"

[upstreams]
"secure.local:443" = "127.0.0.1:{port}"
"""


@pytest.fixture
def client() -> Client:
    return Client.create("the run's")


@pytest.fixture
def secure(tmp_path: Path, client: Client) -> Iterator[Upstream]:
    """A host of a private authority that serves nobody without a certificate."""
    folder = tmp_path / "host"
    folder.mkdir()
    authority = Authority(folder)
    (tmp_path / "ca.pem").write_text(authority.pem)
    context = authority.server("secure.local")
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(cadata=client.root)
    with Upstream(tls=context) as server:
        yield server


@contextmanager
def opened(
    folder: Path, monkeypatch: pytest.MonkeyPatch, client: Client, port: int, more: str = ""
) -> Iterator[tuple[NamespaceProxy, NamespaceSandbox]]:
    monkeypatch.setenv("XDG_STATE_HOME", str(folder / "state"))
    monkeypatch.setenv("XDG_DATA_HOME", str(folder / "data"))
    identity = current()
    store = SecretStore.default(identity.home, os.environ)
    for key, value in zip(("cert", "key"), client.folded, strict=True):
        store.set("corp", key, value.encode())
    (folder / "tls.toml").write_text(PROFILE.format(port=port, more=more))
    profile = load_profile(folder / "tls.toml")
    with (
        resolve(profile, identity) as credentials,
        Session("tls", identity=identity) as session,
        NamespaceProxy(session, profile, credentials) as proxy,
        NamespaceSandbox(session, profile, proxy) as sandbox,
    ):
        yield proxy, sandbox


def curl(sandbox: NamespaceSandbox, *arguments: str) -> Any:
    """Status code and what curl ended with."""
    return sandbox.run(["curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}", *arguments])


@pytest.mark.slow
def test_a_private_host_gets_the_certificate_also_from_the_next_proxy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, client: Client, secure: Upstream
) -> None:
    with opened(tmp_path, monkeypatch, client, secure.port) as (proxy, sandbox):
        done = curl(sandbox, "https://secure.local/")
        assert done.stdout == b"200", done
        first = proxy.pid
        os.kill(first, signal.SIGKILL)
        eventually(lambda: proxy.pid != first)
        assert curl(sandbox, "https://secure.local/").stdout == b"200"
        assert secure.clients == ["the run's", "the run's"]
        # The store is the one file that has the key, and nothing inside is told of any of it.
        needles = leaks.forms(client.key.split("\n")[1].encode())
        assert not leaks.in_files([tmp_path / "state"], needles)
        inside = sandbox.run(["sh", "-c", "env; ls /etc/nsharness; cat /etc/nsharness/*"]).stdout
        assert not leaks.in_bytes(inside, needles)
        assert b"client" not in inside


@pytest.mark.slow
@pytest.mark.parametrize("content", [None, "no certificate"])
def test_authorities_that_are_none_stop_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, client: Client, content: str | None
) -> None:
    """K12."""
    if content is not None:
        (tmp_path / "ca.pem").write_text(content)
    with (
        pytest.raises(NsharnessError, match=r"upstream_ca .*ca\.pem"),
        opened(tmp_path, monkeypatch, client, 1),
    ):
        raise AssertionError("it started")


def test_identity_by_certificate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, client: Client, secure: Upstream
) -> None:
    """As curl does it; without the certificate, past the settings and at the other ports there is nothing."""
    with opened(tmp_path, monkeypatch, client, secure.port, 'proxy = { auth = "mtls" }') as (_, sandbox):
        folder = "/etc/nsharness/client"
        shown = ["--proxy-cacert", "/etc/nsharness/ca.pem", "--proxy-cert", f"{folder}/cert.pem"]
        shown += ["--proxy-key", f"{folder}/key.pem"]
        done = curl(sandbox, *shown, "https://secure.local/")
        assert done.stdout == b"200", done
        assert curl(sandbox, *shown, "https://secure.local/").stdout == b"200"
        assert curl(sandbox, *shown[:2], "https://secure.local/").exit_code != 0
        assert curl(sandbox, "--noproxy", "*", "https://secure.local/").exit_code != 0
        for port in (3128, 3129):
            plain = curl(sandbox, "--proxy", f"http://10.127.0.1:{port}", "http://secure.local/")
            assert plain.exit_code == (7 if port == 3128 else 52), plain
        assert secure.clients == ["the run's", "the run's"]
        script = (
            f"id -u; stat -c '%a %u' {folder}/key.pem; touch {folder}/x; echo > {folder}/key.pem; echo $?"
        )
        uid, mode, failed = sandbox.run(["sh", "-c", script]).stdout.decode().splitlines()
        assert mode == f"400 {uid}"
        assert failed != "0"
        assert sandbox.run(["sh", "-c", "echo $https_proxy"]).stdout == b"https://10.127.0.1:3129\n"
