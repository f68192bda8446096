"""A sandbox with its proxy, and a service on this machine that a rule gives a header for."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from proxies import service

from nsharness.credentials.store import SecretStore
from nsharness.linux.identity import current
from nsharness.policy.profile import Profile
from nsharness.supervisor.credentials import resolve
from nsharness.supervisor.proxy import NamespaceProxy
from nsharness.supervisor.sandbox import NamespaceSandbox
from nsharness.supervisor.session import Session
from tests.proxy.tlshost import Authority

type Parts = tuple[Session, Profile, NamespaceProxy]
"""What sandboxes are made from."""


@contextmanager
def proxied(
    folder: Path, port: int = 9, *, engine: str = "fast", tls_port: int = 9, authority: str = ""
) -> Iterator[Parts]:
    """A session with a proxy that serves. ``bench.example`` is mapped to ``port``, and to ``tls_port`` with
    TLS; requests for it get an Authorization header. ``authority`` is a file with what its certificate is
    verified by."""
    os.environ["XDG_STATE_HOME"], os.environ["XDG_DATA_HOME"] = str(folder / "state"), str(folder / "data")
    identity = current()
    store = SecretStore.default(identity.home, os.environ)
    store.ensure("bench", "token", lambda: b"bench_" + os.urandom(16).hex().encode())
    profile = Profile.model_validate(
        {
            "name": "bench",
            "upstreams": {
                "bench.example:80": f"127.0.0.1:{port}",
                "bench.example:443": f"127.0.0.1:{tls_port}",
            },
            "proxy": {"engine": engine},
            **({"upstream_ca": authority} if authority else {}),
            "sandbox_proxy_rules": [
                {
                    "name": "bench",
                    "hosts": ["bench.example"],
                    "headers": {"Authorization": "Bearer {{ bench.token }}"},
                }
            ],
        }
    )
    with (
        resolve(profile, identity) as credentials,
        Session("bench", identity=identity) as session,
        NamespaceProxy(session, profile, credentials) as proxy,
    ):
        proxy.wait_ready()
        yield session, profile, proxy


@contextmanager
def running(
    folder: Path, port: int = 9, *, engine: str = "fast", tls_port: int = 9, authority: str = ""
) -> Iterator[NamespaceSandbox]:
    """A sandbox at such a proxy."""
    with (
        proxied(folder, port, engine=engine, tls_port=tls_port, authority=authority) as parts,
        NamespaceSandbox(*parts) as sandbox,
    ):
        yield sandbox


@contextmanager
def both_engines(folder: Path) -> Iterator[tuple[int, int, dict[str, NamespaceSandbox]]]:
    """A service in plain HTTP and one inside TLS, by their ports, and for each engine a sandbox whose
    ``bench.example`` is mapped to both."""
    authority = Authority(folder)
    authority.server("bench.example")
    pem = folder / "authority.pem"
    pem.write_text(authority.pem)
    with ExitStack() as stack:
        port = stack.enter_context(service())
        tls_port = stack.enter_context(service(str(folder / "bench.example.pem")))
        boxes = {}
        for engine in ("fast", "mitmproxy"):
            (folder / engine).mkdir(mode=0o711)
            made = running(folder / engine, port, engine=engine, tls_port=tls_port, authority=str(pem))
            boxes[engine] = stack.enter_context(made)
        yield port, tls_port, boxes


def memory(sandbox: NamespaceSandbox) -> float:
    """Resident megabytes of its proxy."""
    status = Path(f"/proc/{sandbox._proxy.pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024
