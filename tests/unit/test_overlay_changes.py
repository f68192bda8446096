"""Listings of two layers → what changed, against a plain model of overlayfs's rules."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from nsharness.overlay.changes import Change, Node, changes, merged, select
from nsharness.overlay.risk import risk

FILE, OTHER, DIRECTORY = Node("file"), Node("file", size=1), Node("directory", 0o755)
OPAQUE, WHITEOUT = Node("directory", 0o755, opaque=True), Node("whiteout")


def test_each_kind_of_change() -> None:
    lower = {
        "f": FILE,
        "d": DIRECTORY,
        "d/x": FILE,
        "t": FILE,
        "l": Node("symlink", target="a"),
        "same": FILE,
    }
    upper = {
        "f": OTHER,
        "d": WHITEOUT,
        "t": DIRECTORY,
        "t/in": FILE,
        "l": Node("symlink", target="b"),
        "same": FILE,
        "new": Node("special"),
        "never": WHITEOUT,
    }
    assert {c.path: c.action for c in changes(upper, lower)} == {
        "f": "modify",
        "d": "delete",
        "d/x": "delete",
        "t": "retype",
        "t/in": "add",
        "l": "modify",
        "new": "add",
    }


def test_modes_are_changes_but_not_those_of_links() -> None:
    lower = {"f": Node("file", 0o644), "l": Node("symlink", 0o777, target="a")}
    upper = {"f": Node("file", 0o755), "l": Node("symlink", 0o700, target="a")}
    assert [(c.path, c.action) for c in changes(upper, lower)] == [("f", "mode")]


_PATHS = [f"{a}{b}{c}" for a in "ab" for b in ("", "/a", "/b") for c in ("", "/a") if b or not c]


def _tree(nodes: list[Node]) -> st.SearchStrategy[dict[str, Node]]:
    def whole(found: dict[str, Node]) -> dict[str, Node]:
        kept: dict[str, Node] = {}
        for path in sorted(found):
            parent = path.rpartition("/")[0]
            if not parent or (parent in kept and kept[parent].kind == "directory"):
                kept[path] = found[path]
        return kept

    return st.dictionaries(st.sampled_from(_PATHS), st.sampled_from(nodes)).map(whole)


def _seen(path: str, upper: dict[str, Node], lower: dict[str, Node]) -> Node | None:
    """What a look-up gives: name by name, as the kernel does it."""
    below = True
    here = ""
    node: Node | None = None
    for name in path.split("/"):
        here = f"{here}/{name}" if here else name
        top, bottom = upper.get(here), lower.get(here) if below else None
        node = bottom if top is None else None if top.kind == "whiteout" else top
        if node is None:
            return None
        if top is not None:
            below = (
                below and top.kind == "directory" and not top.opaque and (bottom or FILE).kind == "directory"
            )
    return node


@settings(max_examples=150)
@given(_tree([FILE, OTHER, DIRECTORY, OPAQUE, WHITEOUT]), _tree([FILE, DIRECTORY]))
def test_the_merged_tree_is_what_the_kernel_shows(upper: dict[str, Node], lower: dict[str, Node]) -> None:
    expected = {path: node for path in _PATHS if (node := _seen(path, upper, lower)) is not None}
    assert merged(upper, lower) == expected
    replayed = dict(lower)
    for change in changes(upper, lower):
        replayed.pop(change.path, None)
        if change.after is not None:
            replayed[change.path] = change.after
    assert {p: (n.kind, n.size) for p, n in replayed.items()} == {
        p: (n.kind, n.size) for p, n in expected.items()
    }


def test_a_selection_brings_the_directories_that_it_needs() -> None:
    found = changes({"n": DIRECTORY, "n/m": DIRECTORY, "n/m/f": FILE, "n/x": FILE, "o": FILE}, {})
    chosen, missed = select(found, ["n/m/f", "absent"])
    assert [c.path for c in chosen] == ["n", "n/m", "n/m/f"]
    assert missed == ("absent",)
    assert select(found, [""])[0] == found


def test_what_the_host_may_run_is_named() -> None:
    """K22."""
    for path in (
        ".git/hooks/x",
        "sub/.git/config",
        ".claude/settings.json",
        ".VSCode/tasks.json",
        ".envrc",
        "a/package.json",
    ):
        assert risk(Change(path, "add", None, FILE)), path
    assert risk(Change("run", "mode", FILE, Node("file", 0o755)))
    assert not risk(Change("src/main.c", "modify", FILE, OTHER))
    assert not risk(Change(".envrc", "delete", FILE, None))
