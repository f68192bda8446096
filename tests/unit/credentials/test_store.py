"""Secrets on disk: safe against links, foreign owners, loose modes, crashes and other writers."""

from __future__ import annotations

import multiprocessing
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsharness.credentials.secret import MAX_BYTES, SecretNotFoundError
from nsharness.credentials.store import SecretStore
from nsharness.errors import NsharnessError

VALUE = b"wiki_hunter22222222"


@pytest.fixture
def store(tmp_path: Path) -> SecretStore:
    return SecretStore(tmp_path / "data" / "nsharness" / "secrets")


@pytest.fixture
def filled(store: SecretStore) -> SecretStore:
    store.set("wiki", "token", VALUE)
    return store


@pytest.fixture(params=[0o000, 0o022, 0o077])
def umask(request: pytest.FixtureRequest) -> Iterator[None]:
    before = os.umask(request.param)
    yield
    os.umask(before)


def _refused(action: object) -> str:
    assert callable(action)
    with pytest.raises(NsharnessError) as caught:
        action()
    message = str(caught.value)
    assert "hunter" not in message
    assert "\n" not in message
    return message


def test_what_was_set_is_what_is_got(filled: SecretStore) -> None:
    assert filled.get("wiki", "token").reveal() == VALUE.decode()
    filled.set("wiki", "token", b"another value")
    filled.set("wiki", "admin", b"a third value")
    assert filled.get("wiki", "token").reveal() == "another value"
    assert filled.names() == [("wiki", ("admin", "token"))]


def test_files_and_folders_are_the_owners_alone(umask: None, filled: SecretStore) -> None:
    assert stat.S_IMODE(filled.root.stat().st_mode) == 0o700
    assert stat.S_IMODE(filled.root.parent.stat().st_mode) & 0o077 == 0
    (file,) = filled.root.iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert filled.get("wiki", "token").reveal() == VALUE.decode()


def test_a_missing_secret_and_a_missing_key_are_told_apart(store: SecretStore) -> None:
    for _ in range(2):
        with pytest.raises(
            SecretNotFoundError, match=r"no such secret .*nsharness secret set wiki --key token"
        ):
            store.get("wiki", "token")
        store.set("other", "token", VALUE)
    store.set("wiki", "admin", VALUE)
    with pytest.raises(SecretNotFoundError, match=r"no key token, only admin .*--key token"):
        store.get("wiki", "token")


def test_reading_makes_no_folder(store: SecretStore) -> None:
    assert store.names() == []
    assert not store.root.parent.exists()


def test_one_newline_at_the_end_is_taken_off_and_reported(store: SecretStore) -> None:
    for value, stripped in ((VALUE, False), (VALUE + b"\n", True), (VALUE + b"\r\n", True)):
        assert store.set("wiki", "token", value) is stripped
        assert store.get("wiki", "token").reveal() == VALUE.decode()


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (b"", "8 bytes"),
        (b"hunter2", "8 bytes"),
        (b"hunter2\n", "8 bytes"),
        (b"hunter2\r\n", "8 bytes"),
        (b"hunter22222\n\n", "one line"),
        (b"hunter22222\nmore", "one line"),
        (b"hunter22222\0", "control"),
        (b"hunter22222\rx", "control"),
        (b"hunter22222\xff", "UTF-8"),
        (b"h" * (MAX_BYTES + 1), "longer"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_a_value_that_is_none_is_refused_and_changes_nothing(
    filled: SecretStore, value: bytes, says: str
) -> None:
    message = _refused(lambda: filled.set("wiki", "token", value))
    assert says in message
    assert "wiki.token" in message
    assert filled.get("wiki", "token").reveal() == VALUE.decode()


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../x", "a/b", "a.b", "A", "a b", "a\0", "-a", ".new-00", "a\n"]
)
def test_names_are_no_paths(filled: SecretStore, name: str) -> None:
    for action in (
        lambda: filled.set(name, "token", VALUE),
        lambda: filled.set("wiki", name, VALUE),
        lambda: filled.get(name, "token"),
        lambda: filled.get("wiki", name),
        lambda: filled.remove(name),
    ):
        _refused(action)
    assert [path.name for path in filled.root.parent.rglob("*")] == ["secrets", "wiki.token"]


def test_removing_a_key_and_a_secret(filled: SecretStore) -> None:
    filled.set("wiki", "admin", VALUE)
    filled.set("wiki-2", "token", VALUE)
    filled.remove("wiki", "admin")
    assert filled.names() == [("wiki-2", ("token",)), ("wiki", ("token",))]
    filled.remove("wiki")
    assert filled.names() == [("wiki-2", ("token",))]
    assert "wiki" in _refused(lambda: filled.remove("wiki"))
    assert "wiki-2.admin" in _refused(lambda: filled.remove("wiki-2", "admin"))


def test_what_others_put_into_the_folder_is_not_listed(filled: SecretStore) -> None:
    for name in ("README", ".hidden.file", "Wiki.token", "a.b.c"):
        (filled.root / name).write_text("x")
    assert filled.names() == [("wiki", ("token",))]


def test_a_symbolic_link_for_a_value_is_refused(filled: SecretStore, tmp_path: Path) -> None:
    """K23."""
    target = tmp_path / "elsewhere"
    target.write_bytes(VALUE)
    target.chmod(0o600)
    (filled.root / "link.token").symlink_to(target)
    message = _refused(lambda: filled.get("link", "token"))
    assert "symbolic link" in message
    assert "nsharness secret set link --key token" in message
    filled.set("link", "token", b"a value of our own")
    assert target.read_bytes() == VALUE
    assert not (filled.root / "link.token").is_symlink()
    assert filled.get("link", "token").reveal() == "a value of our own"


def test_a_hard_link_to_a_value_is_refused_and_replaced(filled: SecretStore, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.hardlink_to(filled.root / "wiki.token")
    assert "hard link" in _refused(lambda: filled.get("wiki", "token"))
    filled.set("wiki", "token", b"a value of our own")
    assert other.read_bytes() == VALUE
    assert filled.get("wiki", "token").reveal() == "a value of our own"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o610])
def test_a_value_that_others_may_read_is_refused(filled: SecretStore, mode: int) -> None:
    (filled.root / "wiki.token").chmod(mode)
    assert "others" in _refused(lambda: filled.get("wiki", "token"))


def test_what_is_no_file_is_refused_at_once(filled: SecretStore) -> None:
    os.mkfifo(filled.root / "fifo.token", 0o600)
    (filled.root / "folder.token").mkdir(0o700)
    for name in ("fifo", "folder"):
        assert "not a regular file" in _refused(lambda name=name: filled.get(name, "token"))


def test_a_value_that_grew_beyond_reason_is_refused(filled: SecretStore) -> None:
    (filled.root / "wiki.token").write_bytes(b"x" * (MAX_BYTES + 1))
    assert "longer" in _refused(lambda: filled.get("wiki", "token"))


@pytest.mark.parametrize("mode", [0o750, 0o705, 0o711, 0o770])
def test_a_folder_that_others_may_enter_is_refused_with_the_remedy(filled: SecretStore, mode: int) -> None:
    filled.root.chmod(mode)
    for action in (
        lambda: filled.get("wiki", "token"),
        lambda: filled.set("wiki", "token", VALUE),
        filled.names,
        lambda: filled.remove("wiki"),
        lambda: filled.ensure("wiki", "token", lambda: VALUE),
    ):
        assert f"chmod 700 {filled.root}" in _refused(action)


def test_a_folder_of_somebody_else_is_refused(filled: SecretStore) -> None:
    stranger = SecretStore(filled.root, owner=os.geteuid() + 1)
    for action in (lambda: stranger.get("wiki", "token"), lambda: stranger.set("wiki", "token", VALUE)):
        assert f"belongs to uid {os.geteuid()}" in _refused(action)


@pytest.mark.root
def test_a_value_of_somebody_else_is_refused(filled: SecretStore) -> None:
    os.chown(filled.root / "wiki.token", 65534, 65534)
    assert "belongs to uid 65534" in _refused(lambda: filled.get("wiki", "token"))


def test_a_symbolic_link_for_the_folder_is_refused(filled: SecretStore, tmp_path: Path) -> None:
    """K23."""
    link = tmp_path / "link"
    link.symlink_to(filled.root)
    linked = SecretStore(link)
    for action in (lambda: linked.get("wiki", "token"), lambda: linked.set("wiki", "token", VALUE)):
        assert "symbolic link" in _refused(action)


def test_a_file_in_place_of_the_folder_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for root in (tmp_path / "file", tmp_path / "file" / "secrets"):
        store = SecretStore(root)
        assert str(root) in _refused(lambda store=store: store.set("wiki", "token", VALUE))


def test_a_crash_leaves_the_old_value_and_no_litter(filled: SecretStore) -> None:
    left = filled.root / ".new-0123456789abcdef"
    left.write_bytes(b"half of a val")
    assert filled.get("wiki", "token").reveal() == VALUE.decode()
    assert filled.names() == [("wiki", ("token",))]
    filled.set("other", "token", VALUE)
    assert not left.exists()


def test_a_write_that_fails_leaves_the_old_value_and_no_litter(
    filled: SecretStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert "No space left" in _refused(lambda: filled.set("wiki", "token", b"another value"))
    monkeypatch.undo()
    assert [path.name for path in filled.root.iterdir()] == ["wiki.token"]
    assert filled.get("wiki", "token").reveal() == VALUE.decode()


def test_ensure_makes_a_value_once(store: SecretStore) -> None:
    assert store.ensure("wiki", "token", lambda: VALUE) is True
    assert store.ensure("wiki", "token", lambda: b"never made") is False
    assert store.get("wiki", "token").reveal() == VALUE.decode()


def _set_many(root: Path, writer: int, count: int) -> None:
    store = SecretStore(root)
    for number in range(count):
        store.set("shared", f"k{writer}-{number}", f"value-{writer}-{number}-xxxx".encode())
        store.set("contended", "token", f"value-of-{writer}-{number}".encode())


def _ensure(root: Path, writer: int, results: object) -> None:
    made = SecretStore(root).ensure("demo", "token", lambda: f"made-by-{writer}".encode())
    results.put((made, SecretStore(root).get("demo", "token").reveal()))  # type: ignore[attr-defined]


def test_writers_at_the_same_time_lose_nothing(tmp_path: Path) -> None:
    root = tmp_path / "deep" / "secrets"
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_set_many, args=(root, number, 25)) for number in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
    assert [writer.exitcode for writer in writers] == [0] * 4
    store = SecretStore(root)
    for who in range(4):
        for number in range(25):
            assert store.get("shared", f"k{who}-{number}").reveal() == f"value-{who}-{number}-xxxx"
    assert store.get("contended", "token").reveal().startswith("value-of-")
    assert all(not path.name.startswith(".") for path in root.iterdir())


def test_of_several_processes_one_makes_the_value_and_all_see_it(tmp_path: Path) -> None:
    root = tmp_path / "secrets"
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    makers = [context.Process(target=_ensure, args=(root, number, results)) for number in range(4)]
    for maker in makers:
        maker.start()
    seen = [results.get(timeout=60) for _ in makers]
    for maker in makers:
        maker.join(60)
    assert sum(made for made, _ in seen) == 1
    assert len({value for _, value in seen}) == 1


@given(st.binary(min_size=8, max_size=40))
def test_any_bytes_are_stored_as_they_are_or_refused(
    tmp_path_factory: pytest.TempPathFactory, value: bytes
) -> None:
    store = SecretStore(tmp_path_factory.mktemp("store") / "secrets")
    try:
        store.set("wiki", "token", value)
    except NsharnessError:
        return
    assert store.get("wiki", "token").reveal().encode() == value.removesuffix(b"\n").removesuffix(b"\r")


def test_the_store_is_in_the_users_data_folder() -> None:
    home = Path("/home/somebody")
    usual = home / ".local/share/nsharness/secrets"
    assert SecretStore.default(home, {}).root == usual
    assert SecretStore.default(home, {"XDG_DATA_HOME": "/data"}).root == Path("/data/nsharness/secrets")
    for relative in ("", "data", "./data"):
        assert SecretStore.default(home, {"XDG_DATA_HOME": relative}).root == usual
