"""The engine of this project: ``nsharness_proxy`` as the supervisor starts it, behind a real gateway."""

from __future__ import annotations

import dataclasses
import json
import os
import socket
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nsharness.linux import fds
from nsharness.policy.hosts import is_ip
from nsharness.policy.model import Engine as Moves
from nsharness.policy.model import Policy
from nsharness_proxy.ca import CertificateAuthority
from tests.contract.engine import Entrance, Served, Setup
from tests.proxy import dnsclient
from tests.proxy.netns import Gateway
from tests.proxy.rig import Proxy

RESOLVER = ("192.0.2.53", 53)
ANYWHERE = "192.0.2.1"
PORTS: dict[Entrance, int] = {"explicit": 3128, "http": 80, "https": 443, "mtls": 3129}


class EmbeddedSandbox:
    """A proxy process and a gateway."""

    def __init__(self, name: str, engine: Moves, setup: Setup, gateway: Gateway, folder: Path) -> None:
        self._name, self._engine, self._setup, self._gateway = name, engine, setup, gateway
        self._output = folder / f"{name}.output"
        self._map = fds.memfd("map", setup.credentials.to_bytes())
        self._key, self._own = fds.memfd("key"), fds.memfd("own")
        self._addresses: dict[str, str] = {}
        self._told: list[dict[str, Any]] = []
        self._number = 0
        self._certificate: tuple[str, str] | None = None
        self.proxy = self._start()

    def _start(self) -> Proxy:
        proxy = Proxy(self._setup.credentials, ca_fd=self._key, sealed_map=self._map, output=self._output)
        proxy.__enter__()
        more: dict[str, Any] = {"upstream_ca": self._setup.upstream_ca} if self._setup.upstream_ca else {}
        if self._setup.placeholders:
            more["placeholders"] = dict(self._setup.placeholders)
        if self._setup.policy.proxy_auth == "mtls":
            policy = self._setup.policy.to_json()
            proxy.send({"op": "authority", "name": self._name, "policy": policy}, (self._own,))
            certificate, key = proxy.event("ca", name=self._name)["client"]
            self._certificate = (certificate, key)
            more["authority"] = self._name
        try:
            served = dataclasses.replace(self._setup.policy, engine=self._engine)
            proxy.attach(self._gateway.sandbox, served, bearer=self._setup.bearer, **more)
        except AssertionError:
            proxy.__exit__()
            raise ValueError("not served") from None
        return proxy

    def close(self) -> None:
        self.proxy.__exit__()
        os.close(self._map)
        fds.close_all([self._key, self._own])

    def dial(self, entrance: Entrance, host: str = "") -> socket.socket:
        address = ANYWHERE if entrance in ("explicit", "mtls") else self._address(host)
        return self._gateway.dial(address, PORTS[entrance])

    def _address(self, host: str) -> str:
        if is_ip(host):
            return host
        if host not in self._addresses:
            self._addresses[host] = self.resolve(host, dnsclient.A).address
        return self._addresses[host]

    def resolve(self, name: str, kind: int) -> dnsclient.Reply:
        with self._gateway.new_socket(dnsclient.UDP) as client:
            return dnsclient.ask(client, RESOLVER, name, kind)

    def trust(self) -> ssl.SSLContext:
        if self._certificate is not None:
            authority = CertificateAuthority.from_pem(fds.read_all(self._own))
            return ssl.create_default_context(cadata=authority.certificate_pem)
        return self.proxy.trust()

    def certificate(self) -> tuple[str, str]:
        assert self._certificate is not None
        return self._certificate

    def audit(self) -> list[dict[str, Any]]:
        return self._gateway.sandbox.log()

    def said(self) -> str:
        events = json.dumps([*self._told, *self.proxy.events])
        return self._gateway.sandbox.audit.read_text() + self._output.read_text() + events

    def reload(self, policy: Policy | Mapping[str, Any]) -> bool:
        self._number += 1
        if isinstance(policy, Policy):
            policy = dataclasses.replace(policy, engine=self._engine).to_json()
        message = {"op": "policy", "sandbox": self._name, "policy": dict(policy), "tag": f"{self._number}"}
        self.proxy.send(message)
        answer = self.proxy.wait_for(lambda event: event.get("reply_to") == message["tag"])
        return bool(answer["event"] == "policy")

    def refuse(self, host: str) -> None:
        self.proxy.send({"op": "refuse", "sandbox": self._name, "host": host})

    @contextmanager
    def crash(self) -> Iterator[None]:
        self.proxy.kill()
        self.proxy.__exit__()
        self._told += self.proxy.events
        try:
            yield
        finally:
            self.proxy = self._start()


class Embedded:
    """Serves each sandbox with a process of its own; ``moves`` is what moves the bytes there."""

    def __init__(self, moves: Moves) -> None:
        self._moves = moves

    @contextmanager
    def serve(self, name: str, setup: Setup, folder: Path) -> Iterator[Served]:
        # Both engines are tried in one folder, and its logs outlive a sandbox.
        name = f"{name}-{self._moves}"
        entrance: Entrance = "mtls" if setup.policy.proxy_auth == "mtls" else "explicit"
        with Gateway(name, folder, PORTS[entrance]) as gateway:
            sandbox = EmbeddedSandbox(name, self._moves, setup, gateway, folder)
            try:
                yield sandbox
            finally:
                sandbox.close()
