"""A sandbox with its proxy, and a service on this machine that a rule gives a header for."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nsharness.credentials.store import SecretStore
from nsharness.linux.identity import current
from nsharness.policy.profile import Profile
from nsharness.supervisor.credentials import resolve
from nsharness.supervisor.proxy import NamespaceProxy
from nsharness.supervisor.sandbox import NamespaceSandbox
from nsharness.supervisor.session import Session


@contextmanager
def running(folder: Path, port: int = 9) -> Iterator[NamespaceSandbox]:
    """``bench.example`` is mapped to ``port``; requests for it get an Authorization header."""
    os.environ["XDG_STATE_HOME"], os.environ["XDG_DATA_HOME"] = str(folder / "state"), str(folder / "data")
    identity = current()
    store = SecretStore.default(identity.home, os.environ)
    store.ensure("bench", "token", lambda: b"bench_" + os.urandom(16).hex().encode())
    profile = Profile.model_validate(
        {
            "name": "bench",
            "upstreams": {"bench.example:80": f"127.0.0.1:{port}"},
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
        NamespaceSandbox(session, profile, proxy) as sandbox,
    ):
        proxy.wait_ready()
        yield sandbox
