"""The proxy's lifetime: started with the sealed credential map, started again when it dies.

The supervisor keeps every listening socket and, as sealed memory that it never reads, the credential map
and the authority's key. So a new proxy continues where a dead one stopped: connections wait in the backlog
meanwhile, clients go on trusting the same certificate, and while no proxy runs nothing leaves.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from nsharness.errors import NsharnessError
from nsharness.frozen import replace
from nsharness.linux import fds
from nsharness.policy.certifying import certifies
from nsharness.supervisor.attachment import Attachment
from nsharness.supervisor.channel import Message
from nsharness.supervisor.child import Child
from nsharness.supervisor.console import Silent
from nsharness.supervisor.console import names as listed
from nsharness.supervisor.credentials import Credentials
from nsharness.supervisor.questions import Questions
from nsharness.supervisor.session import Session
from nsharness.supervisor.told import line_of

if TYPE_CHECKING:
    from nsharness.credentials.secret import SecretRef
    from nsharness.policy.profile import Profile
    from nsharness.policy.shape import RunProfile

_START_SECONDS: Final = 30.0
_END_SECONDS: Final = 2.0
_MAX_QUICK_DEATHS: Final = 3
_BEARER_BYTES: Final = 24
_SALT_BYTES: Final = 32
_QUICK_SECONDS: Final = 5.0


class NamespaceProxy:
    """A context manager: the credential proxy runs inside the block, in the host's network namespace.

    ``upstreams`` adds to the profile's mapped upstreams. Its ``upstream_ca`` is read at once;
    ``NsharnessError`` if it cannot be. The credentials stay the caller's to close, after
    the block. ``on_audit`` is called for every decision, ``on_denial`` for every denial, in the hub's thread.
    """

    def __init__(
        self,
        session: Session,
        profile: RunProfile,
        credentials: Credentials,
        *,
        upstreams: Mapping[str, str] | None = None,
        on_audit: Callable[[Message], None] | None = None,
        on_denial: Callable[[Message], None] | None = None,
        late: bool = False,
    ) -> None:
        """With ``late`` it is not started before ``start``, where no sandbox has to know its certificate."""
        self._session = session
        self._on_denial = on_denial
        # Whom nobody listens to need not speak: that is most of what a busy proxy would tell.
        all_of_them = on_audit is not None or not isinstance(session.reporter, Silent)
        self._copies = ("allow", "inject", "deny", "ask") if all_of_them else ("deny",)
        # Read with the owner's rights: the profile is a file of theirs, and so should be what it names.
        self._upstream_ca = ""
        if profile.upstream_ca is not None:
            from nsharness.policy.load import upstream_authorities

            with session.identity.files():
                self._upstream_ca = upstream_authorities(profile)
        self._upstreams = dict(upstreams or {})
        self._policy = profile.policy_json(self._upstreams)
        self._late = late and not certifies(self._policy)
        self._engine = profile.served_by
        self._bearer_wanted = profile.proxy_auth == "bearer"
        self._credentials = credentials
        self._on_audit = on_audit
        self._salt = os.urandom(_SALT_BYTES)
        self.questions = Questions()
        """What a person is asked about."""
        self._lock = threading.RLock()
        # Held while policies are changed, which waits for the proxy: never by the hub's thread.
        self._changing = threading.Lock()
        self._attachments: dict[str, Attachment] = {}
        self._names: dict[str, list[str]] = {}
        self._closing = False
        self._deaths: list[float] = []
        self._authorities: dict[str, int] = {}
        self._ca: dict[str, str] = {}
        self._clients: dict[str, tuple[str, str]] = {}
        self._announced = threading.Condition(self._lock)
        self._given_up = False
        self._serving = threading.Event()
        self._failure = ""

    def __enter__(self) -> NamespaceProxy:
        try:
            # The one sandbox that there will be; should there be more, each has its own.
            self._authorities[self._session.run.id] = fds.memfd("ca")
            if not self._late:
                self._started()
        except BaseException:
            self.__exit__()
            raise
        return self

    def start(self) -> None:
        """Start it, if that is still to be done: what its sandboxes ask for waits so long. Idempotent."""
        with self._lock:
            if self._late:
                self._started()
                # Not before: who is interrupted at that has no channel to say anything on.
                self._late = False

    def _started(self) -> None:
        self._launch()
        self.ca_pem()
        hosts = listed(self._credentials.hosts)
        self._report(f"credentials loaded for hosts: {hosts}")
        self._report(f"Started (pid {self.pid}, engine={self._engine}, injecting for hosts={hosts})")

    @property
    def pid(self) -> int:
        """The pid of the proxy process that runs now."""
        return self._child.pid

    @property
    def given_up(self) -> str:
        """Why there is no proxy any more, and will be none; empty as long as there is."""
        return self._failure or "it ended" if self._given_up else ""

    def _launch(self) -> None:
        """Start a proxy process and hand it everything; also the way back after a death."""
        self._serving.clear()
        started = self._session.early.take("proxy") if self._credentials.early else None
        started = started or self._session.start("nsharness_proxy", self._credentials.descriptor)
        self._child = child = started.child
        self._channel = started.channel(self._session.hub, self._on_event, lambda: self._on_end(child))
        drop = self._session.identity.drop_to
        uid, gid = drop if drop is not None else (None, None)
        # A process that is dead already shows itself at the end of the channel.
        with contextlib.suppress(OSError):
            for sandbox in self._authorities:
                self._ask_authority(sandbox)
            self._channel.send({"op": "start", "uid": uid, "gid": gid})
            for attachment in self._attachments.values():
                self._send_attachment(attachment)

    def _on_event(self, message: Message, descriptors: list[int]) -> None:
        fds.close_all(descriptors)
        match message.get("event"):
            case "ca":
                with self._announced:
                    if self._ca.get(str(message["name"]), message["pem"]) != message["pem"]:
                        self._report("the authority changed over a restart: clients will not trust it")
                    if "client" in message:
                        certificate, key = message["client"]
                        self._clients.setdefault(str(message["name"]), (certificate, key))
                    self._ca[str(message["name"])] = str(message["pem"])
                    self._announced.notify_all()
            case "ready":
                self._serving.set()
            case "question":
                self._asked(message)
            case "question-over":
                self.questions.over(str(message.get("sandbox")), str(message.get("host")))
            case "names":
                # Which address stands for which name must outlive a proxy: clients keep what they resolved.
                known = self._names.setdefault(str(message["sandbox"]), [])
                known[int(message["at"]) :] = message["names"]["names"]
            case "audit" | "audits":
                for event in message.get("lines", [message]):
                    self._audit(event)
            case "error":
                self._failure = f"{message.get('what')}: {message.get('why')}"
                self._report(self._failure)
                # Nobody will ever serve its sockets: let them go, so that its clients are refused at once.
                self.detach(str(message.get("sandbox", "")))
            case "log" | "fatal":
                self._failure = str(message.get("text", ""))
                self._report(self._failure)

    def _audit(self, message: Message) -> None:
        if (line := line_of(message)) is not None:
            self._report(line)
        if message.get("action") == "deny" and self._on_denial is not None:
            self._on_denial(message)
        if self._on_audit is not None:
            self._on_audit(message)

    def _on_end(self, child: Child) -> None:
        """The proxy is gone. Unless we are ending: start the next one, on the same sockets."""
        with self._lock:
            if self._closing or child is not self._child:
                return
            child.end(1.0)
            self._channel.close()
            self.questions.clear()
            now = time.monotonic()
            self._deaths = [moment for moment in self._deaths if now - moment < _QUICK_SECONDS] + [now]
            if not self._ca or len(self._deaths) > _MAX_QUICK_DEATHS:
                self._failure = self._failure or child.complaint() or f"it ended with status {child.poll()}"
                self._report(f"ended and is not started again, nothing leaves any more: {self._failure}")
                self._given_up = True
                self._announced.notify_all()
                # Whoever waits in the backlog would wait for ever: let go of the sockets, which refuses them.
                for sandbox in list(self._attachments):
                    self.detach(sandbox)
                return
            self._report(f"ended unexpectedly (status {child.poll()}); starting it again")
            self._launch()
            self._report(f"Started (pid {self.pid}, engine={self._engine})")

    def _report(self, text: str) -> None:
        self._session.reporter.line("proxy", text)

    def ca_pem(self, sandbox: str | None = None) -> str:
        """The certificate that a sandbox must trust, by default the run's own; known long before the engine
        is loaded. It is for the hosts of the policy as it is when the authority is made; where there are
        none, it is empty: nothing has to be trusted, and nobody waits for the proxy."""
        name = self._session.run.id if sandbox is None else sandbox
        with self._announced:
            if name not in self._authorities:
                self._authorities[name] = fds.memfd("ca")
                if not self._late:
                    with contextlib.suppress(OSError):
                        self._ask_authority(name)
            if not (certifies(self._policy) or self._given_up):
                return ""
            self._announced.wait_for(lambda: name in self._ca or self._given_up, _START_SECONDS)
            if name in self._ca:
                return self._ca[name]
        why = self._failure or self._child.complaint() or f"no sign of it for {_START_SECONDS:.0f} s"
        raise NsharnessError("the proxy did not start", why=why)

    def _ask_authority(self, sandbox: str) -> None:
        message = {"op": "authority", "name": sandbox, "policy": dict(self._policy)}
        self._channel.send(message, (self._authorities[sandbox],))

    def placeholder(self, ref: SecretRef) -> str:
        """What stands for a secret in the workload's environment: as useless as recognisable."""
        from nsharness.credentials.kinds import kind_named
        from nsharness.credentials.placeholder import placeholder

        return placeholder(ref, kind_named(self._credentials.kinds[str(ref)]), self._salt)

    def wait_ready(self, timeout: float = _START_SECONDS) -> None:
        """Return when the engine serves; connections that come before wait in the backlog."""
        if not self._serving.wait(timeout):
            raise NsharnessError("the proxy does not serve", why=self._failure or self._child.complaint())

    def attach(self, sandbox: str, listeners: tuple[int, ...]) -> Attachment:
        """Serve a sandbox's gateway from now on; the listeners are the proxy's to close."""
        self.ca_pem(sandbox)
        bearer = os.urandom(_BEARER_BYTES).hex() if self._bearer_wanted else None
        client = self._clients.get(sandbox)
        audit = self._session.run.open_audit()
        attachment = Attachment(sandbox, listeners, audit, self._policy, bearer, client)
        with self._lock:
            self._attachments[sandbox] = attachment
            if not self._late:
                with contextlib.suppress(OSError):
                    self._send_attachment(attachment)
        return attachment

    def reload(self, profile: Profile) -> None:
        """Decide by another profile from now on, in every sandbox, also over a restart of the proxy.
        Upstreams that the run itself adds stay, and so do the credentials.

        ``NsharnessError`` where the proxy refuses it, or is not there to take it: the old one stays then, in
        every sandbox.
        """
        policy = profile.policy_json(self._upstreams)
        self.start()
        changed: list[str] = []
        with self._changing:
            for sandbox in list(self._attachments):
                try:
                    self._swap(sandbox, self._answered(sandbox, policy))
                except (NsharnessError, EOFError, OSError, ValueError) as error:
                    # Those that took it go back. If that fails the proxy is gone, the next gets the old one.
                    for earlier in changed:
                        with contextlib.suppress(NsharnessError, EOFError, OSError):
                            self._swap(earlier, self._answered(earlier, self._policy))
                    why = getattr(error, "why", "") or str(error) or "the proxy ended meanwhile"
                    raise NsharnessError(f"profile {profile.name} is not in force", why=why) from None
                changed.append(sandbox)
            self._policy = policy

    def _asked(self, message: Message) -> None:
        """The proxy has a question. One that was answered before is one of a proxy that died."""
        sandbox, host = str(message.get("sandbox")), str(message.get("host"))
        if host in self.questions.hosts(sandbox, "denied"):
            with contextlib.suppress(OSError):
                self._channel.send({"op": "refuse", "sandbox": sandbox, "host": host})
        elif (question := self.questions.posed(message)) is not None:
            self._report(f"waits for an answer about {question.text}: nsharness approve {sandbox}")

    def asks_about(self, host: str) -> bool:
        """Whether a canonical host is one that a person may answer about."""
        from nsharness.policy.asking import askable_host
        from nsharness.policy.model import Policy

        return askable_host(Policy.from_json(self._policy), host)

    def answer(self, sandbox: str, host: str, *, allow: bool) -> None:
        """Put a person's answer about a canonical host in force, for this run; also over a restart of the
        proxy, and over a reload as long as the new profile does not name the host itself.

        ``NsharnessError`` where the proxy does not take it: all is as before then.
        """
        self.start()
        with self._changing:
            before = self.questions.answered(sandbox, host, "allowed" if allow else "denied")
            try:
                self._swap(sandbox, self._answered(sandbox, self._policy))
                if not allow:
                    self._channel.request({"op": "refuse", "sandbox": sandbox, "host": host})
            except (NsharnessError, EOFError, OSError, ValueError) as error:
                self.questions.answered(sandbox, host, before)
                why = getattr(error, "why", "") or str(error) or "the proxy ended meanwhile"
                raise NsharnessError(f"the answer about {host} is not in force", why=why) from None

    def _answered(self, sandbox: str, policy: Mapping[str, Any]) -> Mapping[str, Any]:
        """A policy with what was said yes to."""
        hosts = self.questions.hosts(sandbox, "allowed")
        if not hosts:
            return policy
        from nsharness.policy.asking import granted
        from nsharness.policy.model import Policy

        return granted(Policy.from_json(policy), hosts).to_json()

    def _swap(self, sandbox: str, policy: Mapping[str, Any]) -> None:
        """Change one sandbox's policy, at the proxy and for its successors."""
        self._channel.request({"op": "policy", "sandbox": sandbox, "policy": dict(policy)})
        with self._lock:
            if (old := self._attachments.get(sandbox)) is not None:
                self._attachments[sandbox] = replace(old, policy=policy)

    def _send_attachment(self, attachment: Attachment) -> None:
        message: Message = {
            "op": "attach",
            "sandbox": attachment.sandbox,
            "policy": dict(attachment.policy),
            "bearer": attachment.bearer,
            "copies": self._copies,
        }
        if self._credentials.kinds:
            from nsharness.credentials.secret import SecretRef

            refs = map(SecretRef.parse, self._credentials.kinds)
            message["placeholders"] = {self.placeholder(ref): str(ref) for ref in refs}
        large = []
        if names := self._names.get(attachment.sandbox):
            message["names"] = True
            large.append(fds.memfd("names", json.dumps({"names": names}).encode("ascii")))
        if self._upstream_ca:
            message["upstream_ca"] = True
            large.append(fds.memfd("upstream_ca", self._upstream_ca.encode("ascii")))
        try:
            self._channel.send(message, (*attachment.listeners, attachment.audit, *large))
        finally:
            fds.close_all(large)

    def detach(self, sandbox: str) -> None:
        """Serve that sandbox no more and let go of its gateway's sockets. Idempotent."""
        with self._lock:
            attachment = self._attachments.pop(sandbox, None)
            self._names.pop(sandbox, None)
            if attachment is None:
                return
            if not self._late:
                with contextlib.suppress(OSError):
                    self._channel.send({"op": "detach", "sandbox": sandbox})
            fds.close_all((*attachment.listeners, attachment.audit))
            self._ca.pop(sandbox, None)
            self._clients.pop(sandbox, None)
            fds.close_all([self._authorities.pop(sandbox)])

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._closing = True
        if hasattr(self, "_channel"):
            self._channel.close()
        if hasattr(self, "_child"):
            # One that is still importing has served nobody, and would not see the end before it is done.
            self._child.end(_END_SECONDS if self._serving.is_set() else 0.0)
        for sandbox in list(self._attachments):
            self.detach(sandbox)
        fds.close_all(self._authorities.values())
        self._authorities.clear()
