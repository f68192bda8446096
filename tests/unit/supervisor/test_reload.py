"""What a run takes anew of its profile, and what it refuses: with a proxy in name only."""

from __future__ import annotations

from typing import Any, cast

import pytest

from nsharness.errors import NsharnessError
from nsharness.policy.profile import Profile
from nsharness.supervisor.proxy import NamespaceProxy
from nsharness.supervisor.reload import Reloader

WIKI: dict[str, Any] = {
    "name": "wiki",
    "hosts": ["wiki.local"],
    "methods": ["GET"],
    "headers": {"Authorization": "Bearer {{ wiki.token }}"},
}


def profile(*rules: dict[str, Any], **keys: Any) -> Profile:
    return Profile.model_validate({"name": "p", "sandbox_proxy_rules": list(rules or (WIKI,)), **keys})


class Records:
    """In the place of proxy and console."""

    def __init__(self) -> None:
        self.taken: list[Profile] = []
        self.lines: list[str] = []
        self.refusal: NsharnessError | None = None

    def reload(self, new: Profile) -> None:
        if self.refusal is not None:
            raise self.refusal
        self.taken.append(new)

    def line(self, _: str, text: str) -> None:
        self.lines.append(text)

    def plain(self, text: str) -> None:
        raise AssertionError(text)


def reloaded(records: Records, *profiles: Profile) -> str:
    """Reload once for each profile but the first, which the run began with."""
    left = list(profiles[1:])
    proxy = cast(NamespaceProxy, records)
    reloader = Reloader(lambda: left.pop(0), profiles[0], proxy, records)
    said = [reloader.reload() for _ in range(len(left))]
    return said[-1]


def test_it_says_what_changed() -> None:
    records = Records()
    added = {"name": "docs", "hosts": ["docs.local"]}
    assert reloaded(records, profile(), profile()).endswith("nothing changed")
    changed = {**WIKI, "methods": ["GET", "POST"]}
    text = reloaded(records, profile(), profile(added, changed, upstreams={"docs.local": "127.0.0.1:1"}))
    assert text.endswith("rules added: ['docs']; rules changed: ['wiki']; changed: ['upstreams']")
    assert reloaded(records, profile(WIKI, added), profile(added, WIKI)).endswith("another order: ['rules']")
    assert records.lines[-1].endswith("another order: ['rules']")
    assert len(records.taken) == 3


def test_a_secret_may_go_and_come_back_but_no_new_one_comes() -> None:
    """The map was made at the start, and has what it was made with."""
    records = Records()
    without = {key: value for key, value in WIKI.items() if key != "headers"}
    reloaded(records, profile(), profile(without), profile())
    assert len(records.taken) == 2
    moved = {**WIKI, "name": "renamed", "hosts": ["WIKI.local."], "paths": ["/a"]}
    reloaded(records, profile(), profile(moved))
    assert len(records.taken) == 3


REFUSED: dict[str, tuple[Profile, str]] = {
    "another host": (profile({**WIKI, "hosts": ["wiki.local", "more.local"]}), "authorization of more.local"),
    "another secret": (
        profile({**WIKI, "headers": {"Authorization": "Bearer {{ wiki.other }}"}}),
        "authorization of wiki.local",
    ),
    "another header": (profile({**WIKI, "headers": {"X-Key": "{{ wiki.token }}"}}), "x-key of wiki.local"),
    "a placeholder": (
        profile({**WIKI, "secrets": ["wiki.token"], "placeholders": ["basic"]}),
        "placeholder of wiki.local",
    ),
    "a certificate": (
        profile({**WIKI, "client_cert": "{{ wiki.token }}", "client_key": "{{ wiki.token }}"}),
        "client certificate of wiki.local",
    ),
    "the environment": (profile(env={"A": "b"}), "env changed"),
    "identity": (profile(proxy={"auth": "bearer"}), "proxy changed"),
    "authorities": (profile(upstream_ca="/x"), "upstream_ca changed"),
}


@pytest.mark.parametrize(("new", "why"), REFUSED.values(), ids=REFUSED.keys())
def test_what_needs_a_restart_is_refused_and_told(new: Profile, why: str) -> None:
    records = Records()
    with pytest.raises(NsharnessError) as caught:
        reloaded(records, profile(), new)
    assert why in caught.value.why
    assert caught.value.hint
    assert not records.taken
    assert why in records.lines[0]


def test_after_a_refusal_of_the_proxy_the_old_one_is_what_is_compared_with() -> None:
    records = Records()
    left = [profile(stray_placeholders="leave"), profile()]
    reloader = Reloader(lambda: left.pop(0), profile(), cast(NamespaceProxy, records), records)
    records.refusal = NsharnessError("profile p is not in force", why="because")
    with pytest.raises(NsharnessError, match="because"):
        reloader.reload()
    records.refusal = None
    assert reloader.reload().endswith("nothing changed")
