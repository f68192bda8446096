"""Globs and listings → what is hidden; shares, hidden and protected paths → plans that keep them so."""

from __future__ import annotations

import dataclasses
import posixpath

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nsharness.errors import NsharnessError
from nsharness.plan.compose import Request, compose, protectable
from nsharness.plan.facts import Entry, HostFacts
from nsharness.plan.hiding import Found, Listed, hidden, matches
from nsharness.plan.steps import Bind, Cover, Overlay, Plan, ReadOnly, Tmpfs

W = "/srv/work"


@pytest.mark.parametrize(
    ("pattern", "path", "expected"),
    [
        (".env*", ".env", True),
        (".env*", "a/b/.env.local", True),
        (".env*", "a/x.env", False),
        ("*.pem", ".pem", True),
        ("*.pem", "a/KEY.PEM", False),
        ("secrets/", "a/secrets", True),
        ("a/*.key", "a/x.key", True),
        ("a/*.key", "a/b/x.key", False),
        ("a/*.key", "b/a/x.key", False),
        ("**/a/*.key", "b/a/x.key", True),
        ("**/a/*.key", "a/x.key", True),
        ("a/**", "a/b/c", True),
        ("?.k", "ab.k", False),
        ("[a].k", "a.k", False),
        ("*.k", "new\nline.k", True),
    ],
)
def test_globs(pattern: str, path: str, expected: bool) -> None:
    assert matches(pattern, path) is expected


def test_a_link_hides_what_it_leads_to_and_a_name_all_names() -> None:
    listing = [
        Listed(f"{W}/.env", "symlink", target=f"{W}/real"),
        Listed(f"{W}/real", "file", inode=(1, 2)),
        Listed(f"{W}/again", "file", inode=(1, 2)),
        Listed(f"{W}/other", "file", inode=(1, 3)),
        Listed(f"{W}/k.pem", "directory"),
        Listed(f"{W}/k.pem/.env", "file"),
        Listed(f"{W}/shut", "unreadable"),
    ]
    found = hidden(W, listing, [".env", "*.pem"])
    assert found == {
        f"{W}/real": "file", f"{W}/again": "file", f"{W}/k.pem": "directory", f"{W}/shut": "unreadable"
    }  # fmt: skip
    assert hidden(W, listing, []) == {}


# --- any shares ---------------------------------------------------------------------------------------------

_NAMES = st.sampled_from(["a", "b", ".git", "hooks", "config", ".env"])
_BELOW = st.lists(_NAMES, min_size=1, max_size=3).map(lambda parts: "/".join([W, *parts]))
_PROTECT = (".git/hooks", ".git/config", ".env", "a")


@st.composite
def shares(draw: st.DrawFn) -> tuple[Request, HostFacts]:
    kinds: st.SearchStrategy[Found] = st.sampled_from(["file", "directory", "unreadable"])
    request = Request(
        *("run-1", 1000, 1000, "u", "/home/u", "10.127.0.1", "http://10.127.0.1:3128"),
        workspace=W,
        workspace_mode=draw(st.sampled_from(["rw", "ro", "overlay"])),
        overlay="/home/u/.local/state/nsharness/runs/r/overlay",
        read_only=tuple(draw(st.lists(_BELOW, max_size=2, unique=True))),
        read_write=tuple(draw(st.lists(_BELOW, max_size=2, unique=True))),
        protect=_PROTECT,
        private=("/home/u/.local/state/nsharness", "/home/u/.local/share/nsharness"),
    )
    facts = HostFacts({"/usr": Entry("directory"), W: Entry("directory")})
    for path in (*request.read_only, *request.read_write, *protectable(W, _PROTECT)):
        facts.entries[path] = Entry(draw(st.sampled_from(["directory", "file"])))
    return request, dataclasses.replace(facts, hidden=draw(st.dictionaries(_BELOW, kinds, max_size=3)))


def composed(pair: tuple[Request, HostFacts]) -> Plan | None:
    try:
        return compose(*pair)
    except NsharnessError:
        return None


def within(path: str, top: str) -> bool:
    return path == top or path.startswith(top + "/")


@settings(max_examples=200)
@given(shares())
def test_whatever_is_shared_hidden_paths_end_up_covered_and_protected_ones_read_only(
    pair: tuple[Request, HostFacts],
) -> None:
    asked, facts = pair
    plan = composed(pair)
    if plan is None:
        return
    mounts = [step for step in plan.steps if isinstance(step, Bind | Cover | Overlay | Tmpfs)]

    def top_of(path: str) -> object:
        """The mount that the workload sees at a path: the last of the innermost."""
        inner = max((len(m.path) for m in mounts if within(path, m.path)), default=0)
        return [m for m in mounts if within(path, m.path) and len(m.path) == inner][-1]

    for path in facts.hidden:
        assert isinstance(top_of(path), Cover), path
    for index, step in enumerate(mounts):
        assert not any(
            within(before.path, step.path) and before.path != step.path for before in mounts[:index]
        )
    writable = {step.path for step in mounts if isinstance(step, Bind) and step.writable}
    if asked.workspace_mode == "rw":
        for relative in asked.protect:
            path = posixpath.join(W, relative)
            seen = top_of(path)
            given = any(within(path, share) for share in asked.read_write)
            assert given or isinstance(seen, Cover) or (isinstance(seen, Bind) and not seen.writable), path
    else:
        assert W not in writable
        assert writable <= set(asked.read_write)
    assert plan.steps[-1] == ReadOnly("/")
    assert Plan.from_json(plan.to_json()) == plan


def test_the_strategy_composes_plans() -> None:
    """Otherwise the property would say nothing."""
    request = Request("r", 1, 1, "u", "/home/u", "1.1.1.1", "", workspace=W, protect=(".git/hooks",))
    facts = HostFacts(
        {path: Entry("directory") for path in (W, f"{W}/.git", f"{W}/.git/hooks")},
        hidden={f"{W}/.env": "file"},
    )
    shared = [step for step in compose(request, facts).steps if step.path.startswith(W)][1:]
    assert shared == [
        Bind(W, W, writable=True),
        Bind(f"{W}/.git", f"{W}/.git", writable=True),
        Bind(f"{W}/.git/hooks", f"{W}/.git/hooks"),
        Cover(f"{W}/.env", "/etc/nsharness/hidden"),
    ]


def test_a_share_that_is_hidden_is_refused() -> None:
    request = Request("r", 1, 1, "u", "/home/u", "1.1.1.1", "", workspace=W, read_only=(f"{W}/.env/x",))
    facts = HostFacts(
        {W: Entry("directory"), f"{W}/.env/x": Entry("file")}, hidden={f"{W}/.env": "directory"}
    )
    with pytest.raises(NsharnessError, match="hide covers it"):
        compose(request, facts)
