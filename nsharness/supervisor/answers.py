"""A person's answers, wherever they come from: put in force at the proxy, and written down where wanted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from nsharness.errors import NsharnessError
from nsharness.supervisor.proxy import NamespaceProxy

if TYPE_CHECKING:
    from nsharness.policy.asking import Answer
    from nsharness.supervisor.amend import ProfileFile

ANSWERS: Final[tuple[Answer, ...]] = ("once", "always", "never")


class Answers:
    """Those about one sandbox of a proxy. ``profile`` is what an answer of "always" is written to."""

    def __init__(self, proxy: NamespaceProxy, sandbox: str, profile: ProfileFile | None = None) -> None:
        self._proxy = proxy
        self._sandbox = sandbox
        self._profile = profile

    def listing(self) -> list[dict[str, Any]]:
        """Every host that was asked about: see ``Questions.listing``."""
        return self._proxy.questions.listing(self._sandbox)

    def give(self, host: str, answer: str) -> str:
        """Answer about a host, also one that nobody has asked about yet. Returns what came of it, for a
        person. ``NsharnessError`` where it is no answer, or no host to answer about: nothing changed then."""
        from nsharness.policy.hosts import HostError, canonical_host

        try:
            name = canonical_host(host)
        except HostError as error:
            raise NsharnessError("no answer", why=str(error), hint="give the host as it was asked") from None
        if answer not in ANSWERS:
            raise NsharnessError(f"no answer {answer!a}", hint=f"give {', '.join(ANSWERS)}")
        if not self._proxy.asks_about(name):
            why = "a rule names it, it is an address or a local name, or the profile does not ask about hosts"
            raise NsharnessError(f"no answer about {name}", why=why, hint="change the profile")
        self._proxy.answer(self._sandbox, name, allow=answer != "never")
        if answer == "never":
            return f"{name} stays denied in this run"
        text = f"{name} is allowed in this run"
        return text if answer == "once" else f"{text}{self._written(name)}"

    def _written(self, host: str) -> str:
        """What became of the rule. That it cannot be written takes nothing back."""
        from nsharness.supervisor.amend import rule_for

        if self._profile is None:
            why = "there is no profile that it could be written to"
        else:
            try:
                self._profile.add(host)
            except NsharnessError as error:
                why = str(error)
            else:
                return f", and in later ones by a rule in {self._profile.path}"
        return f"; {why}; for later ones add to a profile:\n{rule_for(host)}"
