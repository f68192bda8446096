"""The proxy at work: sandboxes are attached with their sockets, and detached again.

What moves the bytes of a sandbox is what its policy names. mitmproxy is loaded when something needs it.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import ssl
import stat
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from nsharness.audit.event import AuditEvent
from nsharness.audit.log import AuditLog
from nsharness.credentials.build import CredentialMap
from nsharness.credentials.secret import Secret
from nsharness.linux import fds
from nsharness.policy.asking import is_unknown
from nsharness.policy.hosts import HostPattern, canonical_host, is_ip
from nsharness.policy.model import Policy, Rule
from nsharness.policy.names import NameTable
from nsharness.policy.request import DEFAULT_PORTS
from nsharness.policy.route import Intercept, route
from nsharness_proxy.asking import Questions
from nsharness_proxy.authorities import Authorities
from nsharness_proxy.ca import CertificateAuthority
from nsharness_proxy.claims import Entrance
from nsharness_proxy.control import Control, Message
from nsharness_proxy.entry import entry_tls
from nsharness_proxy.fast.client import Client
from nsharness_proxy.fast.hosts import Hosts
from nsharness_proxy.fast.service import Service
from nsharness_proxy.handover import HandOver
from nsharness_proxy.placeholders import Placeholders
from nsharness_proxy.probe import see_denial, serve_fast, serve_mitm
from nsharness_proxy.report import Report
from nsharness_proxy.sandbox import Sandbox
from nsharness_proxy.scrubbing import scrubber_for
from nsharness_proxy.stub import Stub
from nsharness_proxy.tls import PROTOCOL, ClientSide, HostSide

if TYPE_CHECKING:
    from nsharness_proxy.mitm import Mitm

# In the order in which an attach message carries them.
_ENTRANCES: Final[tuple[Entrance, ...]] = ("http", "https", "explicit")
_SOCKETS: Final = 5
_TURNS: Final = 100
_NAMES_SECONDS: Final = 0.05
_NAMES_AT_ONCE: Final = 100
_ATTACH_KEYS: Final = frozenset(
    {
        "op",
        "sandbox",
        "policy",
        "bearer",
        "names",
        "upstream_ca",
        "tag",
        "placeholders",
        "authority",
        "copies",
    }
)


class Serving(Protocol):
    """Something that serves a listening socket, whichever engine it is of."""

    async def start(self) -> None: ...
    async def close(self) -> None: ...
    def end_outlived(self) -> None: ...


@dataclass(frozen=True, slots=True)
class _Attached:
    sandbox: Sandbox
    authority: CertificateAuthority
    listeners: Sequence[Serving]
    handed_over: HandOver
    stub: Stub
    log: AuditLog
    sockets: Sequence[socket.socket]

    async def close(self) -> None:
        self.stub.stop()
        await asyncio.gather(self.handed_over.close(), *(each.close() for each in self.listeners))
        # The event loop lets go of sockets that were closed with one of its next turns.
        for _ in range(_TURNS):
            if all(sock.fileno() < 0 for sock in self.sockets):
                break
            await asyncio.sleep(0)
        # Last, because connections that end have something to record.
        self.log.close()


class Engine:
    """Serves any number of sandboxes from one process."""

    def __init__(
        self,
        authorities: Authorities,
        credentials: CredentialMap,
        control: Control,
        report: Report,
        load: Callable[[], Awaitable[Mitm]],
        host_tls: HostSide,
    ) -> None:
        """``load`` gives mitmproxy, and loads it before if it has to; ``host_tls`` is TLS with hosts that are
        verified against the system's authorities alone."""
        self._authorities = authorities
        self._credentials = credentials
        self._scrubber = scrubber_for(credentials)
        self._control = control
        self._report = report
        self._host_tls = host_tls
        self._attached: dict[str, _Attached] = {}
        self._untold: set[str] = set()
        self._load = load
        if self._host_tls.trusts is None:
            report.log(
                "warning", "no bundle of trusted authorities was found: no https upstream will be trusted"
            )

    async def serve(self) -> None:
        """Do what the supervisor says until it says stop, or is gone."""
        self._control.attach()
        self._control.send({"event": "ready"})
        async for message, descriptors in self._control.messages():
            if message.get("op") == "stop":
                fds.close_all(descriptors)
                return
            await self._obey(message, descriptors)

    async def _obey(self, message: Message, descriptors: list[int]) -> None:
        sandbox = str(message.get("sandbox", ""))
        reply = {"sandbox": sandbox, **({"reply_to": message["tag"]} if "tag" in message else {})}
        try:
            if message.get("op") == "attach":
                await self._attach(message, descriptors)
                self._control.send({"event": "attached", **reply})
            elif message.get("op") == "policy":
                self._swap(message)
                self._control.send({"event": "policy", **reply})
            elif message.get("op") == "refuse":
                self._refuse(message)
                self._control.send({"event": "refused", **reply})
            elif message.get("op") == "authority":
                self._authorities.add(message, descriptors)
                fds.close_all(descriptors)
            elif message.get("op") == "detach":
                await self.detach(sandbox)
                self._authorities.forget(sandbox)
                self._control.send({"event": "detached", **reply})
            else:
                raise ValueError("unknown operation")
        except (ValueError, KeyError, TypeError, OSError) as error:
            # A sandbox whose policy cannot be read is not served at all; the others are not disturbed.
            fds.close_all(descriptors)
            why = str(error) or type(error).__name__
            what = f"proxy: {message.get('op')} {sandbox}"
            if "tag" not in message:
                # Nobody waits for the answer: a person should see it at least.
                self._report.log("error", f"{what}: {why}")
            self._control.send({"event": "error", "what": what, "why": why, "hint": "", **reply})

    async def _attach(self, message: Message, descriptors: list[int]) -> None:
        unknown = set(message) - _ATTACH_KEYS
        if unknown or not isinstance(message["sandbox"], str) or message["sandbox"] in self._attached:
            raise ValueError(f"unknown keys {sorted(unknown)}, or a sandbox that is attached already")
        if message.get("upstream_ca") is True:
            # Bundles are larger than messages, and so is a full table of names: they come as descriptors.
            authorities = descriptors.pop()
            try:
                message = {**message, "upstream_ca": fds.read_all(authorities).decode("ascii")}
            finally:
                fds.close_all([authorities])
        if message.get("names") is True:
            table = descriptors.pop()
            try:
                message = {**message, "names": json.loads(fds.read_all(table))}
            finally:
                fds.close_all([table])
        if len(descriptors) not in (_SOCKETS + 1, _SOCKETS + 2):
            raise ValueError(f"{len(descriptors)} descriptors came with it")
        if not all(stat.S_ISSOCK(os.fstat(descriptor).st_mode) for descriptor in descriptors[:_SOCKETS]):
            raise ValueError("one of the descriptors is no socket")
        credentials = self._credentials
        if len(descriptors) > _SOCKETS + 1:
            credentials = CredentialMap.from_bytes(fds.read_all(descriptors[-1]))
        log = AuditLog(descriptors[_SOCKETS])
        sandbox = self._sandbox(message, credentials, log)
        fds.close_all(descriptors[_SOCKETS + 1 :])
        authority = self._authorities.named(str(message.get("authority", sandbox.id)))
        entry = entry_tls(authority) if sandbox.policy.proxy_auth == "mtls" else None
        *tcp, dns_udp, dns_tcp = (socket.socket(fileno=d) for d in descriptors[:_SOCKETS])
        # From here on each descriptor has an owner.
        descriptors.clear()
        handed_over = HandOver(self._load, self._report)
        attached = _Attached(
            sandbox,
            authority,
            await self._listeners(sandbox, tcp, entry, handed_over),
            handed_over,
            Stub(dns_udp, dns_tcp, sandbox.resolve),
            log,
            (*tcp, dns_udp, dns_tcp),
        )
        try:
            await self._probe(sandbox)
            for listener in attached.listeners:
                await listener.start()
            await attached.stub.start()
        except BaseException:
            await attached.close()
            raise
        self._attached[sandbox.id] = attached

    async def _probe(self, sandbox: Sandbox) -> None:
        """No probe, no run: a sandbox is served after its own judge has been seen to refuse."""
        if sandbox.policy.served_by == "fast":
            await see_denial(sandbox, serve_fast(self._report))
        else:
            await see_denial(sandbox, serve_mitm(await self._load()))

    async def _listeners(
        self,
        sandbox: Sandbox,
        sockets: Sequence[socket.socket],
        entry: ssl.SSLContext | None,
        handed_over: HandOver,
    ) -> Sequence[Serving]:
        """One for each of the TCP sockets."""
        passed = zip(_ENTRANCES, sockets, strict=True)
        if sandbox.policy.served_by == "fast":
            hosts = Hosts(sandbox)
            return [
                Service(sandbox, entrance, sock, hosts, self._report, handed_over, Client)
                for entrance, sock in passed
            ]
        mitm = await self._load()
        return [
            mitm.listener(sandbox, entrance, sock, entry if entrance == "explicit" else None)
            for entrance, sock in passed
        ]

    def _sandbox(self, message: Message, credentials: CredentialMap, log: AuditLog) -> Sandbox:
        bearer, names, authorities = (message.get(key) for key in ("bearer", "names", "upstream_ca"))
        identifier = message["sandbox"]
        policy = Policy.from_json(message["policy"])
        authority = self._authorities.named(str(message.get("authority", identifier)))

        told = 0 if names is None else len(names["names"])

        def tell(table: NameTable) -> None:
            nonlocal told
            self._untold.discard(identifier)
            while told < len(table):
                # In parts, which fit into messages however long the names are.
                part = table.to_json()["names"][told : told + _NAMES_AT_ONCE]
                names = {"names": part}
                self._control.send({"event": "names", "sandbox": identifier, "at": told, "names": names})
                told += len(part)

        def on_names(table: NameTable) -> None:
            # One event for all names of a burst.
            if identifier not in self._untold:
                self._untold.add(identifier)
                asyncio.get_running_loop().call_later(_NAMES_SECONDS, tell, table)

        return Sandbox(
            id=identifier,
            policy=policy,
            credentials=credentials,
            client_tls=ClientSide(authority),
            client_tls_http1=ClientSide(authority, (PROTOCOL,)),
            host_tls=HostSide(authorities.encode()) if authorities else self._host_tls,
            write=audit_writer(log, self._control, message.get("copies")),
            names=NameTable() if names is None else NameTable.from_json(names),
            bearer=None if bearer is None else Secret(bearer),
            scrubber=self._scrubber if credentials is self._credentials else scrubber_for(credentials),
            placeholders=Placeholders(message.get("placeholders")),
            questions=Questions(lambda event: self._control.send({**event, "sandbox": identifier})),
            on_names=on_names,
        )

    def _swap(self, message: Message) -> None:
        """Decide by another policy from now on. ``ValueError`` for one that is refused; the old one stays
        then, whole.

        Hosts that must be intercepted, and that the sandbox's authority was made without, need a restart.
        """
        attached = self._attached.get(str(message["sandbox"]))
        if attached is None or set(message) - {"tag"} != {"op", "sandbox", "policy"}:
            raise ValueError("no such sandbox, or unknown keys")
        sandbox, policy = attached.sandbox, Policy.from_json(message["policy"])
        if policy.proxy_auth != sandbox.policy.proxy_auth:
            raise ValueError("how clients identify themselves cannot change during a run")
        if policy.served_by != sandbox.policy.served_by:
            raise ValueError("another engine would have to serve it, also to ask about unknown hosts")
        if uncovered := untrusted(policy, attached.authority):
            raise ValueError(
                f"clients would not trust the certificate for {', '.join(uncovered)}: the sandbox's "
                "authority was made without, and connections there must be looked into; that takes a restart"
            )
        known = len(sandbox.names)
        for pattern in (pattern for rule in policy.rules for pattern in rule.hosts):
            if not pattern.subdomains and not is_ip(pattern.base):
                sandbox.names.address_of(pattern.base)
        sandbox.policy = policy
        sandbox.questions.reconsider(lambda host: is_unknown(policy, host))
        if len(sandbox.names) != known:
            sandbox.on_names(sandbox.names)
        for listener in attached.listeners:
            listener.end_outlived()

    def _refuse(self, message: Message) -> None:
        """A person said no to a host."""
        attached = self._attached.get(str(message["sandbox"]))
        if attached is None or set(message) - {"tag"} != {"op", "sandbox", "host"}:
            raise ValueError("no such sandbox, or unknown keys")
        attached.sandbox.questions.refuse(canonical_host(str(message["host"])))

    async def detach(self, identifier: str) -> None:
        """Close everything that a sandbox has here; one that is not attached has nothing."""
        attached = self._attached.pop(identifier, None)
        if attached is not None:
            await attached.close()


def audit_writer(
    log: AuditLog, control: Control, copies: Collection[str] | None = None
) -> Callable[[AuditEvent], None]:
    """Keeps events in the log, and tells the supervisor of those with an action in ``copies``, or of all."""

    def write(event: AuditEvent) -> None:
        line = event.to_line()
        log.append(line)
        if copies is None or event.action in copies:
            control.audit(line, event.at)

    return write


def untrusted(policy: Policy, authority: CertificateAuthority) -> list[str]:
    """The host patterns, as they are written, to which connections must be intercepted and for which clients
    would trust no certificate of ``authority``."""
    return [
        str(pattern)
        for rule in policy.rules
        for pattern in rule.hosts
        if not rule.deny and not authority.covers(pattern.base) and _is_intercepted(policy, rule, pattern)
    ]


def _is_intercepted(policy: Policy, rule: Rule, pattern: HostPattern) -> bool:
    # A name below the pattern that no other pattern is about stands for all of them.
    host = f"any-name.{pattern.base}" if pattern.subdomains else pattern.base
    ports = rule.ports or (DEFAULT_PORTS["https"],)
    return any(isinstance(route(policy, host, port), Intercept) for port in ports)
