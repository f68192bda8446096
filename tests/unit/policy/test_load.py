"""From a file to a profile; every failure is one line that says where."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from nsharness.errors import NsharnessError
from nsharness.policy.load import MAX_BYTES, explain, load_profile, parse_profile, upstream_authorities
from nsharness.policy.profile import Profile
from nsharness_proxy.ca import CertificateAuthority

GOOD = """\
# A comment.
name = "demo"
system_prompt = '''
[not.a.table]
hosts = []
'''

[[sandbox_proxy_rules]]
name = "wiki"
hosts = [
    "wiki.local",
    "docs.local",
]
headers = { Authorization = "Bearer {{ wiki.token }}" }

[[sandbox_proxy_rules]]
name = "open"
hosts = ["open.example"]

[upstreams]
"wiki.local" = "127.0.0.1:4242"
"""


def _error(text: str, default_name: str | None = "p") -> str:
    with pytest.raises(NsharnessError) as caught:
        parse_profile(text, "x.toml", default_name=default_name)
    message = str(caught.value)
    assert "\n" not in message
    assert caught.value.exit_code == 125
    return message


def test_a_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    path.write_text(GOOD)
    for argument in (path, str(path)):
        profile = load_profile(argument)
        assert profile.name == "demo"
        assert [rule.name for rule in profile.sandbox_proxy_rules] == ["wiki", "open"]


@pytest.mark.parametrize("text", ["", "# nothing\n", "\n\n"])
def test_an_empty_file_is_a_profile_that_allows_nothing(tmp_path: Path, text: str) -> None:
    """K3."""
    path = tmp_path / "My Profile.toml"
    path.write_text(text)
    assert load_profile(path) == Profile(name="my-profile")


@pytest.mark.parametrize(
    ("change", "line", "says"),
    [
        (('name = "demo"', 'nme = "demo"'), 2, ["nme", "did you mean name?"]),
        (("[upstreams]", "[upstream]"), 20, ["did you mean upstreams?"]),
        (("[upstreams]", "[proxy]\nauht = 'bearer'\n[upstreams]"), 21, ["proxy.auht", "did you mean auth?"]),
        (('name = "open"', 'name = "open"\nmethod = ["GET"]'), 18, ["rule open", "did you mean methods?"]),
        (('["open.example"]', "[]"), 18, ["rule open", "sandbox_proxy_rules[1].hosts", "empty"]),
        (('hosts = ["open.example"]', ""), 16, ["rule open", "sandbox_proxy_rules[1].hosts", "required"]),
        (('["open.example"]', '["open.example", "a b"]'), 18, ["sandbox_proxy_rules[1].hosts[1]", "'a b'"]),
        (('    "docs.local",', '    "http://docs.local",'), 10, ["hosts[1]", "scheme"]),
        (('["open.example"]', '["*.com"]'), 18, ["rule open", "over-broad"]),
        (('["open.example"]', '["*.co.uk"]'), 18, ["rule open", "over-broad", "allow_any"]),
        (
            ("{{ wiki.token }}", "{{ wiki }}"),
            14,
            ["rule wiki", "headers", "Authorization", "secret-name.key"],
        ),
        (("{{ wiki.token }}", "{{ wiki.token }"), 14, ["rule wiki", "Authorization", "{{"]),
        (("Authorization =", "Host ="), 14, ["rule wiki", "Host"]),
        (('name = "open"', 'name = "wiki"'), 17, ["two rules are called wiki"]),
        (('"127.0.0.1:4242"', '"127.0.0.1"'), 20, ["upstreams", "wiki.local", "port"]),
        (('name = "open"', 'name = "open"\nports = ["80"]'), 18, ["ports[0]"]),
        (('name = "open"', 'name = "open"\nallow_any = "yes"'), 18, ["allow_any"]),
    ],
    ids=lambda value: str(value)[:40],
)
def test_an_error_names_file_line_and_key(change: tuple[str, str], line: int, says: list[str]) -> None:
    assert change[0] in GOOD
    message = _error(GOOD.replace(*change))
    assert message.startswith("profile x.toml, line ")
    assert f"line {line}," in message, message
    for text in says:
        assert text in message, message


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("name = \n", 1),
        ('name = "a"\nname = "b"\n', 2),
        ('name = "a"\n[[x]\n', 2),
        ('name = "a"\nx = [1,\n', 2),
        ('name = "a"\nx = """\nabc\n', 3),
        ("\x00", 1),
    ],
)
def test_what_is_no_toml_is_an_error_with_its_line(text: str, line: int) -> None:
    message = _error(text)
    assert f"profile x.toml, line {line}" in message, message
    assert "not TOML" in message


def test_an_error_counts_those_that_it_does_not_show() -> None:
    assert "and 1 more" in _error("a = 1\nb = 2\n")


def test_a_profile_without_a_name_needs_one_from_somewhere() -> None:
    assert "name" in _error("", default_name=None)


def test_an_error_does_not_quote_a_header() -> None:
    for value in ('"hunter22222 {{ oops }}"', '["hunter22222"]', '"hunter22222\\r\\nX: y"'):
        text = f'[[sandbox_proxy_rules]]\nname = "r"\nhosts = ["a.local"]\nheaders = {{ X-Key = {value} }}\n'
        assert "hunter22222" not in _error(text)


def test_a_problem_of_a_profile_made_in_python_reads_the_same() -> None:
    with pytest.raises(ValidationError) as caught:
        Profile.model_validate({"name": "p", "sandbox_proxy_rules": [{"name": "r", "hosts": []}]})
    message = str(explain(caught.value, "p"))
    assert message.startswith("profile p, sandbox_proxy_rules[0].hosts: present but empty")


def test_what_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    missing = tmp_path / "missing.toml"
    latin = tmp_path / "latin.toml"
    latin.write_bytes(b'name = "p"\nsystem_prompt = "\xe9"\n')
    huge = tmp_path / "huge.toml"
    huge.write_bytes(b"#" * (MAX_BYTES + 1))
    fifo = tmp_path / "fifo.toml"
    os.mkfifo(fifo)
    for path, says in (
        (missing, "No such file"),
        (tmp_path, "is a directory"),
        (latin, "line 2: not UTF-8"),
        (huge, "larger"),
        (fifo, "not a regular file"),
        (Path("/dev/null/x"), "Not a directory"),
        (Path("/dev/zero"), "not a regular file"),
        ("a\0b", "null"),
    ):
        with pytest.raises(NsharnessError) as caught:
            load_profile(path)
        message = str(caught.value)
        assert says in message
        assert "\n" not in message
        assert "\0" not in message


@pytest.mark.rootless
def test_an_unreadable_file_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    path.write_text("")
    path.chmod(0)
    with pytest.raises(NsharnessError, match="Permission denied"):
        load_profile(path)


@given(st.text(max_size=60) | st.text('[]{}"=.#\nab1', max_size=60))
def test_any_text_is_a_profile_or_one_line(text: str) -> None:
    with contextlib.suppress(NsharnessError):
        assert parse_profile(text, "x.toml", default_name="p").name


def test_deep_nesting_is_one_line() -> None:
    assert "profile x.toml" in _error("x = " + "[" * 100_000)


CERTIFICATE = CertificateAuthority.create().certificate_pem
PRIVATE = "-----BEGIN PRIVATE KEY-----\nhunter2\n-----END PRIVATE KEY-----\n"


def test_upstream_ca_is_found_beside_the_profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "profiles"
    folder.mkdir()
    (folder / "ca.pem").write_text(f"# ours\n{CERTIFICATE}{PRIVATE}{CERTIFICATE}")
    for written in ("ca.pem", str(folder / "ca.pem")):
        (folder / "x.toml").write_text(f'upstream_ca = "{written}"\n')
        monkeypatch.chdir(tmp_path)
        profile = load_profile("profiles/x.toml")
        monkeypatch.chdir("/")
        assert upstream_authorities(profile) == 2 * CERTIFICATE
    assert upstream_authorities(Profile(name="p")) == ""


NO_CERTIFICATE = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"


@pytest.mark.parametrize(
    "content",
    [None, "", PRIVATE, "\udcff", NO_CERTIFICATE, CERTIFICATE + NO_CERTIFICATE],
    ids=["missing", "empty", "private", "no text", "none", "one of two"],
)
def test_a_file_without_certificates_is_an_error(tmp_path: Path, content: str | None) -> None:
    """K12."""
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(NsharnessError, match="upstream_ca") as caught:
        upstream_authorities(Profile(name="p", upstream_ca=str(path)))
    assert "hunter2" not in str(caught.value)
    assert "\n" not in str(caught.value)
