"""One normal form for paths, and globs over it."""

from __future__ import annotations

import re
from urllib.parse import quote, unquote_to_bytes

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsharness.policy.paths import PathError, PathGlob, join_target, normalise_path, split_target

_PLAIN = "abcXYZ019-._~!$&'()*+,=:@"
segments = st.text(_PLAIN, min_size=1, max_size=6).filter(lambda text: text not in (".", ".."))
paths = st.lists(segments, max_size=5).map(lambda parts: "/" + "/".join(parts))
wild = st.text("/.%;a2fFeE5cC\\?*é#\udc80 ", max_size=24).map(lambda text: "/" + text)


@given(st.one_of(wild, paths, st.text(max_size=30).map(lambda text: "/" + text)))
def test_the_normal_form_is_a_fixed_point_without_dots_and_double_slashes(path: str) -> None:
    """K7."""
    try:
        normal = normalise_path(path)
    except PathError:
        return
    assert normalise_path(normal) == normal
    assert normal.startswith("/")
    assert "//" not in normal
    assert normal.isascii()
    decoded = [unquote_to_bytes(segment) for segment in normal.split("/")]
    assert not {b".", b".."} & set(decoded)
    assert not any(b"/" in segment or b"\\" in segment or b"\0" in segment for segment in decoded)


@given(paths, st.randoms(use_true_random=False))
def test_encoding_an_unreserved_character_changes_nothing(path: str, random) -> None:  # type: ignore[no-untyped-def]
    spelled = "".join(
        f"%{ord(c):02x}" if c.isalnum() or (c in "-._~" and random.random() < 0.5) else c for c in path
    )
    assert normalise_path(spelled) == normalise_path(path)


@given(paths)
def test_a_path_without_anything_to_normalise_stays_as_it_is(path: str) -> None:
    assert normalise_path(path) == path


@pytest.mark.parametrize(
    ("path", "normal"),
    [
        ("/", "/"),
        ("//", "/"),
        ("/a//b", "/a/b"),
        ("/a/", "/a/"),
        ("/a/.", "/a/"),
        ("/a/./b", "/a/b"),
        ("/a/../b", "/b"),
        ("/a/..", "/"),
        ("/a/b/..", "/a/"),
        ("/../../a", "/a"),
        ("/a/%2e%2E/b", "/b"),
        ("/a/.%2e/b", "/b"),
        ("/%61%7e", "/a~"),
        ("/a%3ab", "/a%3Ab"),
        ("/a:b", "/a:b"),
        ("/é", "/%C3%A9"),
        ("/\udcc3\udca9", "/%C3%A9"),
        ("/a|b{c}", "/a%7Cb%7Bc%7D"),
        ("/100%25", "/100%25"),
        ("/a;v=1/b", "/a;v=1/b"),
        ("/...", "/..."),
        ("/a*b", "/a*b"),
    ],
)
def test_normal_forms(path: str, normal: str) -> None:
    assert normalise_path(path) == normal


@pytest.mark.parametrize(
    "path",
    [
        "",
        "a",
        "*",
        "http://wiki.local/a",
        "/a%2fb",
        "/a%2Fb",
        "/..%2fadmin",
        "/a%5cb",
        "/a\\b",
        "/%2e%2e%5cadmin",
        "/a%00",
        "/a\0",
        "/a%0d%0aX:y",
        "/a\r\n",
        "/a b",
        "/a%7f",
        "/a%1f",
        "/a%",
        "/a%2",
        "/a%zz",
        "/a%u002f",
        "/a%252fb",
        "/a%252e%252e/b",
        "/a%25%32%66b",
        "/a%2525",
        "/..;/admin",
        "/.;/admin",
        "/..;x=1/admin",
        "/;/admin",
        "/a/;../b",
        "/a;../b",
        "/a;.",
        "/..%3b/admin",
        "/%2e%2e;/admin",
        "/a%c0%afb",  # an overlong slash
        "/%c0%ae%c0%ae/admin",  # overlong dots
        "/%ff",
        "/a#b",
    ],
)
def test_a_path_that_servers_read_differently_is_refused(path: str) -> None:
    """K7: each of these has led past a path rule somewhere."""
    with pytest.raises(PathError):
        normalise_path(path)


@given(paths, st.text("abc=&%2f?/:@!é", max_size=20))
def test_what_was_checked_is_what_is_sent(path: str, query: str) -> None:
    target = f"{path}?{query}"
    checked_path, checked_query = split_target(target)
    assert checked_query == query.replace("é", "%C3%A9")
    sent = join_target(checked_path, checked_query)
    assert split_target(sent) == (checked_path, checked_query)


@pytest.mark.parametrize("target", ["/a?b#c", "/a?b c", "/a?b\r\nX: y", "/a?b\0", "/a?\x7f"])
def test_a_query_with_a_line_break_a_space_or_a_fragment_is_refused(target: str) -> None:
    with pytest.raises(PathError):
        split_target(target)


def test_a_query_is_kept_as_it_came() -> None:
    assert split_target("/a?x=%2e%2e/%2F&y=../") == ("/a", "x=%2e%2e/%2F&y=../")
    assert split_target("/a?b?c") == ("/a", "b?c")
    assert split_target("/a?") == ("/a", "")


@pytest.mark.parametrize(
    ("glob", "path", "matches"),
    [
        ("/snippets/*", "/snippets/durability", True),
        ("/snippets/*", "/snippets/", False),
        ("/snippets/*", "/snippets", False),
        ("/snippets/*", "/snippets/a/b", False),
        ("/snippets/*", "/snippets/a/", False),
        ("/snippets/*", "/snippetsx/a", False),
        ("/a/**", "/a/b", True),
        ("/a/**", "/a/b/c/", True),
        ("/a/**", "/a/", True),
        ("/a/**", "/a", False),
        ("/a/**", "/ab", False),
        ("/**", "/", True),
        ("/**", "/a/b", True),
        ("/a/**/z", "/a/z", True),
        ("/a/**/z", "/a/b/c/z", True),
        ("/a/**/z", "/a/b/c", False),
        ("/a/**/", "/a/b/", True),
        ("/a/**/", "/a/b", False),
        ("/**/x/**", "/a/x/b", True),
        ("/**/x/**", "/a/x", False),
        ("/v*/x", "/v1/x", True),
        ("/v*/x", "/v/x", True),
        ("/v*/x", "/v1/2/x", False),
        ("/*.git", "/a.git", True),
        ("/*.git", "/.git", True),
        ("/a*b*c", "/abbbc", True),
        ("/a*b*c", "/acb", False),
        ("/a*a", "/a", False),
        ("/", "/", True),
        ("/", "/a", False),
        ("/a", "/a/", False),
        ("/a/", "/a", False),
        ("/a%2A", "/a*", True),
        ("/a%2A", "/ab", False),
        ("/a:b", "/a%3Ab", True),
        ("/a%3ab", "/a:b", True),
        ("/é", "/%C3%A9", True),
        ("/A", "/a", False),
    ],
)
def test_globs(glob: str, path: str, matches: bool) -> None:
    assert PathGlob.parse(glob).matches(path) is matches


glob_segments = st.one_of(
    st.just("**"), st.text("ab*", min_size=1, max_size=4).filter(lambda t: "**" not in t)
)
globs = st.lists(glob_segments, min_size=1, max_size=5).map(lambda parts: "/" + "/".join(parts))
short_paths = st.lists(st.text("ab", min_size=1, max_size=3), max_size=6).map(lambda p: "/" + "/".join(p))


def _as_regex(glob: str) -> str:
    """The meaning of a glob, said another way, for comparison only (it backtracks)."""
    out = ""
    parts = glob[1:].split("/")
    for index, part in enumerate(parts):
        if part == "**":
            out += "(?:/[^/]*)+" if index == len(parts) - 1 else "(?:/[^/]+)*"
        else:
            out += "/(?=[^/])" + "".join("[^/]*" if c == "*" else re.escape(c) for c in part)
    return out


@given(globs, short_paths, st.booleans())
def test_a_glob_means_what_its_regular_expression_means(glob: str, path: str, slash: bool) -> None:
    if slash and path != "/":
        path += "/"
    assert PathGlob.parse(glob).matches(path) == bool(re.fullmatch(_as_regex(glob), path))


@given(globs)
def test_the_text_of_a_glob_is_its_canonical_form(glob: str) -> None:
    parsed = PathGlob.parse(glob)
    assert PathGlob.parse(str(parsed)) == parsed


@given(paths)
def test_a_glob_without_wildcards_matches_its_path_alone(path: str) -> None:
    glob = PathGlob.parse(quote(path, safe="/"))
    assert glob.matches(path)
    assert not glob.matches(path + "x")


def test_a_glob_does_not_backtrack() -> None:
    """A pattern of many wildcards against a path that almost matches: seconds to centuries for a regex."""
    assert not PathGlob.parse("/" + "*a" * 60 + "b").matches("/" + "a" * 20_000)
    assert not PathGlob.parse("/**/a" * 30 + "/b").matches("/a" * 2_000)


@pytest.mark.parametrize(
    "glob",
    ["", "a", "*", "/a?b", "/a//b", "/./a", "/a/../b", "/a**", "/**a", "/***", "/a%2fb", "/a b", "/%2*"],
)
def test_a_glob_that_could_never_match_is_refused(glob: str) -> None:
    with pytest.raises(PathError):
        PathGlob.parse(glob)


@given(st.text("ab.~-_/", max_size=16).map(lambda text: "/" + text))
def test_the_short_way_for_plain_paths_is_no_other_way(path: str) -> None:
    """An encoded letter sends the same path the long way round."""
    assert normalise_path(path) == normalise_path(path.replace("a", "%61", 1).replace("/b", "/%62", 1))
