"""A changed profile for a run that lives: taken whole, or refused with the reason while the old one stays.

What can change is what the proxy decides by: rules, upstreams, what becomes of stray placeholders. Everything
else of a profile was used when the run started. Secrets were resolved then as well, by a process that is
gone: a rule may lose one, or give the same one on other conditions, but no rule gets a new one.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final

from nsharness.errors import NsharnessError
from nsharness.policy.plain import written_out
from nsharness.supervisor.console import Reporter, names
from nsharness.supervisor.proxy import NamespaceProxy

if TYPE_CHECKING:
    from nsharness.policy.profile import Profile, SandboxProxyRule
    from nsharness.policy.shape import RunProfile

RELOADABLE: Final = frozenset({"sandbox_proxy_rules", "upstreams", "stray_placeholders"})
"""The keys of a profile that a run takes anew."""

_HINT: Final = "start the run again"


class Reloader:
    """Reads a run's profile again with ``load``, which is how it was read first, and puts it in force."""

    def __init__(
        self, load: Callable[[], RunProfile], profile: RunProfile, proxy: NamespaceProxy, reporter: Reporter
    ) -> None:
        self._load = load
        self._first = self._now = profile
        self._proxy = proxy
        self._reporter = reporter
        # Requests come from the control socket's threads and from the signal.
        self._lock = threading.Lock()

    def reload(self) -> str:
        """Put the profile as it is now in force. Returns what changed, which is reported as well.

        ``NsharnessError``, reported too, for a profile that is wrong or needs a restart: all is as before.
        """
        with self._lock:
            try:
                before, profile = written_out(self._now), written_out(self._load())
                check_reloadable(before, profile)
                check_secrets(_bound(written_out(self._first)), profile)
                self._proxy.reload(profile)
            except ImportError as error:  # It was installed anew meanwhile.
                raise NsharnessError("no profile can be read", why=str(error), hint=_HINT) from None
            except NsharnessError as error:
                self._reporter.line("nsharness", f"reload refused, nothing has changed: {error}")
                raise
            text = f"profile {profile.name} reloaded: {difference(before, profile)}"
            self._now = profile
            self._reporter.line("nsharness", text)
            return text


def check_reloadable(old: Profile, new: Profile) -> None:
    """``NsharnessError`` where something differs that only a start can apply."""
    changed = [key for key in type(old).model_fields if getattr(old, key) != getattr(new, key)]
    fixed = sorted(set(changed) - RELOADABLE)
    if fixed:
        why = f"{', '.join(fixed)} changed, which a run takes at its start only"
        raise NsharnessError(f"profile {old.name} is not reloaded", why=why, hint=_HINT)


def check_secrets(resolved: Iterable[tuple[str, ...]], profile: Profile) -> None:
    """``NsharnessError`` where a rule gives a host a secret that the run's credentials do not have for it."""
    unresolved = sorted(_bound(profile) - set(resolved))
    if unresolved:
        host, kind, header, _ = unresolved[0]
        what = f"header {header}" if header else kind.replace("-", " ")
        why = f"the {what} of {host} is new or another, and these are filled in at the start only"
        raise NsharnessError(f"profile {profile.name} is not reloaded", why=why, hint=_HINT)


def difference(old: Profile, new: Profile) -> str:
    """What a reload comes to, in a few words: names of rules and keys, no values."""
    before, after = _rules(old), _rules(new)
    kept = [name for name in after if name in before]
    facts = {
        "rules added": [name for name in after if name not in before],
        "rules removed": [name for name in before if name not in after],
        "rules changed": [name for name in kept if before[name] != after[name]],
        "in another order": [] if kept == [name for name in before if name in after] else ["rules"],
        "changed": [k for k in ("upstreams", "stray_placeholders") if getattr(old, k) != getattr(new, k)],
    }
    return "; ".join(f"{what}: {names(found)}" for what, found in facts.items() if found) or "nothing changed"


def _rules(profile: Profile) -> dict[str, SandboxProxyRule]:
    return {rule.name: rule for rule in profile.sandbox_proxy_rules}


def _bound(profile: Profile) -> frozenset[tuple[str, str, str, str]]:
    """What the credential map has for a profile: host pattern, kind, header and template of each value."""
    from nsharness.credentials.build import bindings_of
    from nsharness.policy.hosts import HostPattern

    return frozenset(
        (str(HostPattern.parse(host)), binding.kind, binding.header.lower(), binding.template)
        for binding in bindings_of(profile)
        for host in binding.hosts
    )
