"""All connections to hosts that one sandbox has: those that are free wait here for the next request.

They are kept by what they were made for: host, port, TLS, client certificate. No other sandbox gets them,
and none is used by another policy than it was made by, which could map the host elsewhere.
"""

from __future__ import annotations

import asyncio
from typing import Final

from nsharness.credentials.map import ClientCertificate
from nsharness.policy.proof import VerifiedCertificate
from nsharness_proxy import upstream
from nsharness_proxy.decision import Decision
from nsharness_proxy.fast.host import Host
from nsharness_proxy.fast.secured import HandshakeError, Secured
from nsharness_proxy.judge import Judge, Reached
from nsharness_proxy.sandbox import Sandbox
from nsharness_proxy.shown import Shown
from nsharness_proxy.upstream import UpstreamError

_MOST_FREE: Final = 128
"""Free connections of a sandbox; who comes beyond closes the one that has waited longest."""
_FREE_SECONDS: Final = 30.0
_FRESH_SECONDS: Final = 2.0
"""How long a connection may have waited for a request that cannot be sent twice: hosts close what waits, and
then nobody knows whether they have seen it."""

Key = tuple[str, int, str, object]


class Hosts:
    """The connections of one sandbox."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox
        self._free: dict[Key, list[Host]] = {}
        self._count = 0

    @property
    def waiting(self) -> int:
        """How many are free."""
        return self._count

    def take(self, made: Decision, *, again: bool) -> Host | None:
        """A free connection for a request, which could be sent ``again``, should it prove to be closed."""
        waiting = self._free.get(_key(made))
        while waiting:
            host = waiting.pop()
            self._count -= 1
            if host.closing or host.policy is not self._sandbox.policy:
                host.close()
            elif again or asyncio.get_running_loop().time() - host.free_since < _FRESH_SECONDS:
                return host
            else:
                host.close()
        return None

    def give(self, host: Host, made: Decision) -> None:
        """A connection that was for this request is free, if it can be used again."""
        if not host.reusable or host.closing:
            host.close()
            return
        if self._count >= _MOST_FREE:
            self._close_oldest()
        host.free_since = asyncio.get_running_loop().time()
        self._free.setdefault(_key(made), []).append(host)
        self._count += 1

    async def open(self, judge: Judge, made: Decision) -> Host:
        """A new connection for a request. ``UpstreamError`` says why there is none."""
        name, port, policy = made.view.host, made.view.port, self._sandbox.policy
        if (name, port) not in judge.approved:
            raise UpstreamError("upstream-address-refused")
        sock = await upstream.dial(policy, name, port)
        address = sock.getpeername()[:2]
        host = Host()
        host.policy = policy
        shown: list[bool] = []
        secured = None
        if made.view.scheme == "https":
            secured = self._secured(judge, made, address, host, shown)
        try:
            await asyncio.get_running_loop().create_connection(lambda: secured or host, sock=sock)
        except BaseException:
            sock.close()
            raise
        verified = None if secured is None else await _handshake(secured, name, address[0])
        tls = secured is not None
        host.reached = Reached(name, port, address, tls, verified, made.identity, bool(shown))
        return host

    def _secured(
        self, judge: Judge, made: Decision, address: tuple[str, int], host: Host, told: list[bool]
    ) -> Secured:
        """``told`` gets an entry when the host was shown a certificate."""
        name = made.view.host
        shown = None
        if made.identity is not None:
            key = (self._sandbox.credentials.version, str(made.allow.pattern))
            here = VerifiedCertificate(name, address[0])

            def ask() -> ClientCertificate:
                found = judge.certificate(made, here)
                told.append(True)
                return found

            shown = Shown(key, ask)
        return Secured(self._sandbox.host_tls.connection(name, shown), host)

    def expire(self, now: float) -> None:
        """Close what has waited too long."""
        for key, waiting in list(self._free.items()):
            kept = [host for host in waiting if not host.closing and now - host.free_since < _FREE_SECONDS]
            for host in waiting:
                if host not in kept:
                    host.close()
            self._count -= len(waiting) - len(kept)
            if kept:
                self._free[key] = kept
            else:
                del self._free[key]

    def close(self) -> None:
        """Close all that are free."""
        self.expire(float("inf"))

    def _close_oldest(self) -> None:
        key = min(
            (key for key, waiting in self._free.items() if waiting), key=lambda k: self._free[k][0].free_since
        )
        self._free[key].pop(0).close()
        self._count -= 1


def _key(made: Decision) -> Key:
    return made.view.host, made.view.port, made.view.scheme, made.identity


async def _handshake(secured: Secured, name: str, address: str) -> VerifiedCertificate:
    try:
        async with asyncio.timeout(upstream.CONNECT_SECONDS):
            await secured.established
    except TimeoutError:
        secured.abort()
        raise UpstreamError("upstream-tls-failed") from None
    except HandshakeError as error:
        raise UpstreamError(
            "upstream-certificate-rejected" if error.unverified else "upstream-tls-failed"
        ) from None
    except BaseException:
        secured.abort()
        raise
    if not secured.verified:
        secured.abort()
        raise UpstreamError("upstream-certificate-rejected")
    return VerifiedCertificate(name, address)
